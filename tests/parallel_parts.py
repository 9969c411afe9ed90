"""A few real processes that train a tiny model together, and the same steps in one process to compare them with.

The processes are started once. For each case as many of them as it needs connect as torchrun's would: through
`ranks.start`, in a store that the test's process keeps over all cases (each case is an "attempt" of its own).
"""

import multiprocessing
import socket
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from aquila.data.batch import IGNORE, Batch
from aquila.errors import CheckpointError
from aquila.model.config import ModelConfig
from aquila.model.lora import TARGETS, add_lora
from aquila.model.loss import losses_and_slope
from aquila.model.transformer import Transformer
from aquila.train.attention import document_attention
from aquila.train.build import materialise
from aquila.train.clip import clip_gradients
from aquila.train.muon import Muon, split
from aquila.train.parallel import parallelise
from aquila.train.ranks import Ranks, start
from aquila.train.recipe import ParallelConfig
from aquila.train.shards import initialise, local, local_slices
from aquila.train.state import Checkpoints, Identity, RunFacts, TrainState
from aquila.train.ulysses import ulysses

WORLD = 4
ROWS, SEQ, VOCAB = 16, 32, 320


MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"qkv_bias": True},
    "lora": {},
    "deep": {"num_hidden_layers": 10},
    "uneven": {"vocab_size": 322, "hidden_size": 36, "head_dim": 6, "intermediate_size": 70},
}


def model_config(kind: str) -> ModelConfig:
    fields = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    return ModelConfig(**{**fields, **MODELS[kind]})


@dataclass(frozen=True)
class Case:
    """What is trained, and how it is spread."""

    world: int = 1
    parallel: dict[str, Any] = field(default_factory=dict)
    accumulation: int = 1
    optimizer: str = "adamw"
    kind: str = "plain"
    steps: int = 3


@dataclass(frozen=True)
class Trained:
    """What came of it: mean loss and gradient norm of each step, and the whole parameters at the end."""

    losses: list[float]
    norms: list[float]
    parameters: dict[str, Tensor]


def packed_batch(step: int, rows: int = ROWS, seq: int = SEQ) -> Batch:
    """Rows of documents of any length, some with padding behind, with an uneven number of targets in each."""
    draw = np.random.default_rng(step)
    input_ids = draw.integers(0, VOCAB, (rows, seq))
    document_ids, positions = np.zeros((rows, seq), np.int64), np.tile(np.arange(seq), (rows, 1))
    labels = np.roll(input_ids, -1, axis=1)
    labels[:, -1] = IGNORE
    labels[draw.random((rows, seq)) < np.linspace(0, 0.6, rows)[:, None]] = IGNORE
    for row in range(rows):
        cuts = np.sort(draw.choice(np.arange(1, seq), size=row % 4, replace=False))
        document_ids[row] = np.searchsorted(cuts, np.arange(seq), side="right")
        positions[row] -= np.concatenate(([0], cuts))[document_ids[row]]
        labels[row, cuts - 1] = IGNORE
        if row % 3 == 2:
            document_ids[row, -5:], positions[row, -5:] = -1, 0
            labels[row, -6:] = IGNORE
    return Batch(input_ids, labels, document_ids, positions)


def unpacked(batch: Batch) -> Batch:
    """The same documents, each at the beginning of a row of its own."""
    rows = []
    for row in range(len(batch.input_ids)):
        for document in range(batch.document_ids[row].max() + 1):
            places = np.flatnonzero(batch.document_ids[row] == document)
            rest = SEQ - len(places)
            columns = (batch.input_ids, 0), (batch.labels, IGNORE), (batch.document_ids * 0, -1), (batch.positions, 0)
            rows.append([np.pad(each[row, places], (0, rest), constant_values=fill) for each, fill in columns])
    return Batch(*(np.stack(column) for column in zip(*rows, strict=True)))


def gradients(ranks: Ranks, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    """Loss of a batch and the gradient of every weight."""
    model = build(Case(), ranks)
    loss = sum_of_losses(model, batch, ranks)
    loss.backward()
    return loss.item(), {name: whole(each.grad) for name, each in model.named_parameters() if each.grad is not None}


def build(case: Case, ranks: Ranks) -> Transformer:
    """The model of `case`, spread over `ranks`, with the same weights in any case of the same model."""
    with torch.device("meta"):
        model = Transformer(model_config(case.kind))
        if case.kind == "lora":
            add_lora(model, r=4, alpha=8.0, targets=TARGETS)
    parallelise(model, ranks, ParallelConfig(**case.parallel))
    materialise(model, ranks.device)
    initialise(model, seed=7, initializer_range=0.1)
    return model


def build_optimizer(case: Case, model: Transformer, ranks: Ranks) -> torch.optim.Optimizer:
    if case.optimizer == "adamw":
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.1, eps=1e-5, fused=True)
    matrices, rest = split(model)
    groups = [
        {"params": list(matrices.values()), "algorithm": "muon", "lr": 0.02, "weight_decay": 0.1},
        {"params": list(rest.values()), "algorithm": "adamw", "lr": 3e-3, "weight_decay": 0.1, "eps": 1e-5},
    ]
    return Muon(groups, ranks)


def sum_of_losses(model: Transformer, batch: Batch, ranks: Ranks) -> Tensor:
    """The loss of this process's places in `batch`."""
    columns = ranks.columns(batch.input_ids.shape[1])
    ids, labels, positions = (
        torch.from_numpy(np.ascontiguousarray(each[:, columns]))
        for each in (batch.input_ids, batch.labels, batch.positions)
    )
    attend = ulysses(document_attention(batch.document_ids, ranks.device), ranks)
    return model(ids, positions, attend=attend, length=batch.input_ids.shape[1], labels=labels)


def own_rows(batch: Batch, ranks: Ranks, part: int = 0, parts: int = 1) -> Batch:
    """The rows of this process in the `part`-th of `parts` micro-batches."""
    size = len(batch.input_ids) // (parts * ranks.data_world)
    first = (ranks.data_rank * parts + part) * size
    return batch.rows(first, first + size)


def train(
    case: Case, ranks: Ranks, model: Transformer, optimizer: torch.optim.Optimizer, steps: Sequence[int]
) -> Trained:
    losses, norms = [], []
    for step in steps:
        batch = packed_batch(step)
        total = torch.zeros(())
        for part in range(case.accumulation):
            if ranks.mesh is not None:
                model.set_requires_gradient_sync(part == case.accumulation - 1)
            loss = sum_of_losses(model, own_rows(batch, ranks, part, case.accumulation), ranks)
            (loss / batch.num_targets).backward()
            total += loss.detach()
        norms.append(clip_gradients(model.parameters(), 0.5).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(ranks.sum(total).item() / batch.num_targets)
    return Trained(losses, norms, whole_parameters(model))


def whole_parameters(model: Transformer) -> dict[str, Tensor]:
    return {name: whole(parameter) for name, parameter in model.named_parameters()}


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def train_case(ranks: Ranks, case: Case) -> Trained:
    model = build(case, ranks)
    return train(case, ranks, model, build_optimizer(case, model, ranks), range(case.steps))


def pieces_agree(ranks: Ranks, case: Case) -> bool:
    """Whether each piece here is the one that `local_slices` cuts from the whole."""
    model = build(case, ranks)
    return all(
        torch.equal(local(parameter), whole[local_slices(parameter)])
        for parameter, whole in zip(model.parameters(), whole_parameters(model).values(), strict=True)
    )


def logits_beside_documents(ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the second document of a row, beside two different first ones; places of this process."""
    model = build(Case(), ranks)
    batch = packed_batch(1)
    document_ids = np.repeat([[0] * 11 + [1] * (SEQ - 11)], ROWS, axis=0)
    columns = ranks.columns(SEQ)
    logits = []
    for change in (0, 1):
        changed = (batch.input_ids + change * (document_ids == 0)) % VOCAB
        attend = ulysses(document_attention(document_ids, ranks.device), ranks)
        with torch.no_grad():
            out = model(torch.from_numpy(np.ascontiguousarray(changed[:, columns])), attend=attend)
        logits.append(out.numpy()[document_ids[:, columns] == 1])
    return logits[0], logits[1]


def sums(ranks: Ranks) -> tuple[float, list[int], slice]:
    """Each process brings a power of two, so that the sum says who was counted."""
    ranks.barrier()
    found: list[int] = [-1] * ranks.world
    dist.all_gather_object(found, ranks.rank)
    return ranks.sum(torch.tensor(2.0**ranks.rank)).item(), found, ranks.columns(SEQ)


def found_by_some(ranks: Ranks, finders: tuple[int, ...]) -> str:
    """What each process says when some of them find something."""

    def look() -> int:
        if ranks.rank in finders:
            raise CheckpointError(f"damage {ranks.rank}")
        return ranks.rank

    try:
        return f"no damage to {ranks.together(look)}"
    except CheckpointError as error:
        return str(error)


def half_precision(ranks: Ranks, case: Case) -> tuple[Trained, set[torch.dtype]]:
    model = build(case, ranks)
    optimizer = build_optimizer(case, model, ranks)
    trained = train(case, ranks, model, optimizer, range(case.steps))
    kept = [*model.parameters(), *(each for state in optimizer.state.values() for each in state.values())]
    return trained, {tensor.dtype for tensor in kept}


def count_graphs(ranks: Ranks, case: Case) -> tuple[Trained, int, int]:
    """What was trained, and how many graphs the compiler made for its blocks and for its loss."""
    from torch._dynamo.eval_frame import _debug_get_cache_entry_list
    from torch._dynamo.utils import counters

    trained = train_case(ranks, case)
    num_of_loss = len(_debug_get_cache_entry_list(losses_and_slope.__code__))
    return trained, counters["stats"]["unique_graphs"] - num_of_loss, num_of_loss


def save_steps(ranks: Ranks, case: Case, folder: Path) -> dict[str, Tensor]:
    """Trains two steps and saves; returns weights and optimizer state, whole."""
    model = build(case, ranks)
    optimizer = build_optimizer(case, model, ranks)
    train(case, ranks, model, optimizer, range(2))
    checkpoints = _checkpoints(case, folder)
    checkpoints.save(model, [optimizer], TrainState(step=2), wait=True)
    checkpoints.close()
    return whole_state(model, optimizer)


def load_steps(ranks: Ranks, case: Case, folder: Path) -> dict[str, Tensor]:
    model = build(case, ranks)
    optimizer = build_optimizer(case, model, ranks)
    checkpoints = _checkpoints(case, folder)
    state = checkpoints.load_latest(model, [optimizer])
    checkpoints.close()
    assert state is not None
    assert state.step == 2
    return whole_state(model, optimizer)


def _checkpoints(case: Case, folder: Path) -> Checkpoints:
    return Checkpoints(folder, RunFacts(Identity("model", "tokenizer", "data"), model_config(case.kind)))


def whole_state(model: Transformer, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    state = {
        f"{names[parameter]}.{key}": value
        for parameter, entry in optimizer.state.items()
        for key, value in entry.items()
    }
    return {**whole_parameters(model), **{name: whole(tensor) for name, tensor in state.items()}}


class Pool:
    """Processes that run functions `f(ranks, *arguments)` together."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["aquila.train.trainer"])  # imported once, with torch, and forked
        self.store = dist.TCPStore("127.0.0.1", _free_port(), is_master=True, wait_for_workers=False)
        self.attempt = 0
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(WORLD):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def run(self, world: int, parallel: dict[str, Any], function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function` returns in each of `world` processes."""
        self.attempt += 1
        environment = {
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": str(self.attempt),
        }
        for rank, pipe in enumerate(self.pipes[:world]):
            own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            pipe.send((own, parallel, function, arguments))
        answers = [pipe.recv() for pipe in self.pipes[:world]]
        for rank, (good, answer) in enumerate(answers):
            assert good, f"rank {rank}: {answer}"
        return [answer for _, answer in answers]

    def train(self, case: Case) -> Trained:
        return self.run(case.world, case.parallel, train_case, case)[0]

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join()


def _serve(pipe: Connection, rank: int) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            environment, parallel, function, arguments = pipe.recv()
        except EOFError:
            return
        # the compiler warns of what it does itself
        warnings.simplefilter("ignore" if parallel.get("compile") else "error")
        try:
            ranks = start(ParallelConfig(**parallel), environment)
            answer = (True, function(ranks, *arguments))
            ranks.close()
        except Exception:  # noqa: BLE001  the test's process raises it
            answer = (False, traceback.format_exc())
            if dist.is_initialized():
                dist.destroy_process_group()
        pipe.send(answer)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
