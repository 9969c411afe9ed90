"""Which process this is among those of the run, which device it has, and how they are connected.

Alone (`python -m aquila ...`) there is nothing to connect. Under torchrun each process reads its place from the
environment that torchrun sets, and meets the others in a store under a name of its own for each restart: torchrun keeps
one store over restarts, and addresses of processes that have died would be found in it.
"""

import os
import secrets
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from aquila.errors import AquilaError, ConfigError, TrainingError
from aquila.launch.node import die_with_parent
from aquila.machine import keep_freed_memory
from aquila.train.layout import Layout, plan_layout
from aquila.train.recipe import ParallelConfig

PARAMETER_DIMS = ("dp_replicate", "dp_shard", "tp")  # of the mesh; dp_shard counts cp in
_Result = TypeVar("_Result")


class RankError(TrainingError):
    """What this rank has met and the others need not have, so that rank 0 cannot tell it."""


@contextmanager
def own_errors(rank: int) -> Generator[None]:
    """Makes a `RankError`, with the rank, of what any rank but the first meets inside."""
    try:
        yield
    except AquilaError as error:
        if rank == 0:
            raise
        raise RankError(f"rank {rank}: {error}") from None


@dataclass(frozen=True)
class Ranks:
    """This process among the others. `mesh` is None for one that works alone in fp32, and then nothing is sharded.

    cp_group: the processes that hold pieces of the same sequences.
    copy_group: those that together hold one copy of the model (dp_shard x cp x tp).
    replica_group: those that hold the same piece of it in each copy.
    """

    layout: Layout
    device: torch.device
    rank: int = 0
    mesh: DeviceMesh | None = None
    cp_group: dist.ProcessGroup | None = None
    copy_group: dist.ProcessGroup | None = None
    replica_group: dist.ProcessGroup | None = None

    @property
    def world(self) -> int:
        return self.layout.world

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """Which part of the batch's rows this process gets, of `data_world`."""
        return self.layout.data_rank(self.rank)

    @property
    def data_world(self) -> int:
        return self.layout.data_world

    @property
    def cp_rank(self) -> int:
        return self.layout.cp_rank(self.rank)

    @property
    def cp_size(self) -> int:
        return self.layout.cp

    def columns(self, seq: int) -> slice:
        """Which places of a sequence of `seq` tokens this process computes."""
        length = seq // self.cp_size
        return slice(self.cp_rank * length, (self.cp_rank + 1) * length)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes that see different tokens; those of one tensor-parallel group count once."""
        if self.mesh is None:
            return value
        total = value.clone() if self.layout.tp_rank(self.rank) == 0 else torch.zeros_like(value)
        dist.all_reduce(total)
        return total

    def together(self, action: Callable[[], _Result]) -> _Result:
        """Runs `action` on every process, and waits for all. An `AquilaError` of one is raised on all of them."""
        if self.mesh is None:
            return action()
        result: Any = None
        own: AquilaError | None = None
        try:
            result = action()
        except AquilaError as error:
            own = error
        found: list[tuple[type[AquilaError], str] | None] = [None] * self.world
        dist.all_gather_object(found, None if own is None else (type(own), str(own)))
        for rank, problem in enumerate(found):
            if problem is not None:
                kind, text = problem
                raise kind(f"rank {rank}: {text}" if rank else text)
        return result

    def barrier(self) -> None:
        """Waits until every process is here, through host memory: no accelerator is woken for it."""
        if self.mesh is not None:
            dist.all_reduce(torch.zeros(1))

    def close(self) -> None:
        """Leaves the others, when all are done. Call it once, at the end of a run that went well."""
        if self.mesh is not None:
            self.barrier()
            dist.destroy_process_group()


def start(config: ParallelConfig, environment: Mapping[str, str] | None = None) -> Ranks:
    """Finds the others and connects to them. All processes of the run call this at the same time.

    Args:
        config: the wanted sizes.
        environment: where torchrun's variables are looked up; that of the process when not given.

    Raises:
        ConfigError: the sizes do not fit the number of processes, or there are more processes than devices here.
        RankError: the latter, on the first rank of another machine than that of rank 0.
    """
    environment = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in environment:  # set by torchrun, whose ranks would train on if it were killed
        die_with_parent()
    world = int(environment.get("WORLD_SIZE", "1"))
    rank, local_rank = int(environment.get("RANK", "0")), int(environment.get("LOCAL_RANK", "0"))
    layout = plan_layout(config, world)
    with own_errors(0 if local_rank else rank):  # said once for each machine
        device = _choose_device(local_rank, int(environment.get("LOCAL_WORLD_SIZE", "1")))
    if device.type == "cpu":
        keep_freed_memory()
    if world == 1 and config.precision == "fp32" and not config.offload:
        return Ranks(layout, device)
    store = dist.HashStore() if world == 1 else _shared_store(environment, rank, world)
    backend = dist.get_default_backend_for_device(device.type)
    if device.type == "cpu":
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    else:  # tensors in host memory too: barriers, objects, checkpoints
        backends = f"cpu:gloo,{device.type}:{backend}"
        dist.init_process_group(backends, store=store, rank=rank, world_size=world, device_id=device)
    return connect(layout, device, rank)


def connect(layout: Layout, device: torch.device, rank: int) -> Ranks:
    """The mesh and the groups of `layout` in the process group that exists already."""
    sizes = (layout.dp_replicate, layout.dp_shard * layout.cp, layout.tp)
    mesh = init_device_mesh(device.type, sizes, mesh_dim_names=PARAMETER_DIMS)
    ranks = torch.arange(layout.world)
    cp_group = copy_group = None
    if layout.cp > 1:
        pieces = ranks.view(-1, layout.cp, layout.tp).transpose(1, 2).reshape(-1, layout.cp)
        cp_group = _own_group(pieces)
    if sizes[1] > 1 and sizes[2] > 1:
        copy_group = _own_group(ranks.view(layout.dp_replicate, -1))
    else:
        copy_group = mesh.get_group("dp_shard" if sizes[1] > 1 else "tp")
    return Ranks(layout, device, rank, mesh, cp_group, copy_group, mesh.get_group("dp_replicate"))


def _own_group(groups: Tensor) -> dist.ProcessGroup | None:
    """Makes a group of each row of ranks, on all processes alike, and returns the one that this process is in."""
    return dist.new_subgroups_by_enumeration(groups.tolist())[0]


def _shared_store(environment: Mapping[str, str], rank: int, world: int) -> dist.Store:
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return dist.TCPStore(address, port, world, is_master=rank == 0)
    store = dist.TCPStore(address, port, is_master=False)  # of torchrun's agent, which outlives restarts
    return dist.PrefixStore(agree_on_name(store, rank, world), store)


def agree_on_name(store: dist.Store, rank: int, world: int) -> str:
    """A name that only the processes of this start know, though others have used the store before them.

    torchrun's count of restarts will not do: when a process has failed, only the agent of its machine counts one, and
    the processes of two machines would wait for each other under two names. So everyone asks with a word that is new,
    and rank 0 answers until all have heard it: an old question may stand where a new one is about to be put.
    """
    if rank:
        word = secrets.token_hex(8)
        store.set(f"question-{rank}", word)
        name = store.get(f"answer-{word}").decode()
        store.set(f"{name}-{rank}", "heard")
        return name
    name, pause = secrets.token_hex(8), threading.Event()
    for other in range(1, world):
        while not store.check([f"{name}-{other}"]):
            store.set(f"answer-{store.get(f'question-{other}').decode()}", name)
            pause.wait(0.002)
    return name


def _choose_device(local_rank: int, local_world: int) -> torch.device:
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    count = torch.accelerator.device_count()
    if local_world > count:
        raise ConfigError(
            f"{local_world} processes on this machine, which has {count} devices; start at most {count} here "
            f"(slots= in a hostfile, --nproc-per-node of torchrun)"
        )
    torch.accelerator.set_device_index(local_rank)
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    return torch.device(accelerator.type, local_rank)
