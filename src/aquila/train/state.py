"""The state of a run, saved so that nothing can lose it, and loaded so that the run goes on as if it had never stopped.

Each rank writes its pieces of weights and optimizer state as safetensors through torch.distributed.checkpoint, on a
process group of its own (on the default group the collectives of a background save and those of training would wait
for each other). Nothing is pickled. What becomes visible when is in checkpoint/run_folder.py. Tensors are named by the
module path of their parameter, so any number of ranks, sharded in any way, can load what any other number has saved.
"""

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.optim import Optimizer

from aquila.checkpoint.folder import write_json
from aquila.checkpoint.run_folder import Claim, RunFolder, check_digests, read_manifest
from aquila.checkpoint.training import MODEL, OPTIMIZER
from aquila.errors import AquilaError, CheckpointError
from aquila.files import sha256_file
from aquila.model.config import ModelConfig, to_hugging_face
from aquila.tokenizer.tokenizer import Tokenizer
from aquila.train.shards import local

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 2 << 30  # of one rank: the writer holds a file in memory a second time
MAX_FAILURES = 3  # saves in a row that may fail before the run ends
_SAVE_TIMEOUT = timedelta(hours=2)  # slow shared file systems; a dead rank is noticed by torchrun, not by this
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class TrainState:
    """What a run is besides its tensors. Where it stands in the data follows from `step` and the seed.

    `extras` is JSON of whoever keeps numbers from step to step: the guard's statistics, the fp16 loss scale.
    """

    step: int = 0
    num_tokens: int = 0
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Identity:
    """Digests of what a checkpoint belongs to. `base` is that of the frozen weights below an adapter."""

    model: str
    tokenizer: str
    data: str
    base: str = ""


@dataclass(frozen=True)
class RunFacts:
    """What goes into every checkpoint beside the tensors, so that a folder is complete by itself.

    `record` is what is known of the model (name, licence, chat_template, preset); `recipe` the resolved settings.
    """

    identity: Identity
    model_config: ModelConfig
    tokenizer: Tokenizer | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


class Checkpoints:
    """Saves and loads the checkpoints of one run. All ranks make one, and call each method at the same step.

    Args:
        run_dir: folder of the run, on a file system that all nodes share.
        facts: what the run is; a checkpoint of something else is refused.
        keep_last: newest checkpoints that are kept.
        keep_interval: checkpoints at multiples of this are kept for good.
        on_published: called on rank 0, in the background too, with the folder of each new checkpoint. What it raises
            is logged and costs nothing else.
    """

    def __init__(
        self,
        run_dir: Path,
        facts: RunFacts,
        *,
        keep_last: int = 3,
        keep_interval: int | None = None,
        on_published: Callable[[Path], object] | None = None,
    ) -> None:
        self._facts, self._on_published = facts, on_published
        self._keep: dict[str, Any] = {"keep_last": keep_last, "keep_interval": keep_interval}
        self._folder = RunFolder(run_dir)
        self._group = dist.new_group(backend="gloo", timeout=_SAVE_TIMEOUT) if dist.is_initialized() else None
        self._rank = dist.get_rank() if self._group else 0
        self._world = dist.get_world_size() if self._group else 1
        self._save: _Save | None = None
        self.failures_in_a_row = 0
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", module="torch.distributed")
        self._claimed = self._together(self._claim)

    def _claim(self) -> Claim | None:
        if self._rank:
            return None
        claim = self._folder.claim()
        for name in self._folder.sweep():
            log.info("%s: removed, a save that was cut short", self._folder.path / name)
        return claim

    def save(self, model: nn.Module, optimizers: Sequence[Optimizer], state: TrainState, *, wait: bool = False) -> None:
        """Saves the run as it is now. Without `wait` the files are written in the background, after a copy in memory.

        A background save that fails is reported when the next one begins; training goes on, until three failed in a
        row.

        Raises:
            CheckpointError: this save failed and `wait` is set, or too many failed before.
        """
        self.wait()
        if self._save and self._save.step == state.step and self._save.error is None:
            return
        adapter_only = not all(parameter.requires_grad for parameter in model.parameters())
        tensors, scalars = _gather_tensors(model, optimizers)
        manifest = {**asdict(state), "optimizer": scalars, "adapter_only": adapter_only, **self._manifest()}
        staged = tensors if wait else BlockingAsyncStager().stage(tensors)
        self._save = _Save(state.step, lambda: self._write(staged, manifest))
        if wait:
            self._save.run()
            self.wait(must_succeed=True)
        else:
            self._save.start()

    def wait(self, *, must_succeed: bool = False) -> None:
        """Waits for the save that is under way, if one is, and accounts for how it ended."""
        if self._save is None or not self._save.finish():
            return
        error = self._save.error
        if error is None:
            self.failures_in_a_row = 0
            return
        if not isinstance(error, CheckpointError):
            raise error
        self.failures_in_a_row += 1
        if must_succeed or self.failures_in_a_row >= MAX_FAILURES:
            raise CheckpointError(f"step {self._save.step} could not be saved: {error}; {self._kept()}")
        log.error(
            "step %d could not be saved: %s; training goes on (%d of %d failures in a row that end it)",
            self._save.step,
            error,
            self.failures_in_a_row,
            MAX_FAILURES,
        )

    def _kept(self) -> str:
        steps = self._folder.steps()
        return f"the checkpoint of step {steps[0]} is untouched" if steps else "no checkpoint was there before"

    def close(self) -> None:
        """Waits for the last save and gives the folder free. `CheckpointError` if that save failed."""
        try:
            self.wait(must_succeed=True)
        finally:
            self.release()

    def release(self) -> None:
        """Gives the folder free, whatever became of the run."""
        if self._claimed is not None:
            self._claimed.close()

    def load_latest(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> TrainState | None:
        """Loads the newest whole checkpoint into `model` and `optimizers`; None when the run has none.

        Every file is read once and compared with its digest. A checkpoint that is damaged is passed over, aloud.

        Raises:
            CheckpointError: the checkpoint belongs to another model, tokenizer or data set, or none is whole.
        """
        findings = []
        for step in self._broadcast(self._folder.steps()):
            path = self._folder.checkpoint(step)
            try:
                manifest = self._together(lambda path=path: self._verified(path))
            except CheckpointError as error:
                log.warning("%s is damaged and passed over: %s", path, error)
                findings.append(str(error))
                continue
            self._require_same(path, manifest)
            self._together(lambda path=path, manifest=manifest: self._read(path, manifest, model, optimizers))
            return TrainState(manifest["step"], manifest["num_tokens"], manifest["extras"])
        if findings:
            raise CheckpointError(
                f"{self._folder.path}: none of {len(findings)} checkpoints is whole: {findings[0]}; put back a copy of "
                "one, or give the run another folder to begin anew"
            )
        return None

    def _verified(self, path: Path) -> dict[str, Any]:
        """The manifest of a checkpoint, after reading this rank's share of its files."""
        manifest = read_manifest(path)
        check_digests(path, manifest, sorted(manifest["files"])[self._rank :: self._world])
        return manifest

    def _require_same(self, path: Path, manifest: Mapping[str, Any]) -> None:
        """Refuses what is whole but belongs to something else. All ranks read the same manifest, so they agree."""
        ours = asdict(self._facts.identity)
        names = {
            "model": "another model",
            "tokenizer": "another tokenizer",
            "data": "other data",
            "base": "other weights",
        }
        for key, words in names.items():
            theirs = manifest["identity"].get(key, "")
            if theirs != ours[key]:
                raise CheckpointError(
                    f"{path}: was trained with {words}: digest {theirs or 'none'}, this run has {ours[key] or 'none'}; "
                    "continue with the recipe and files it began with, or give this run another folder"
                )

    def _read(self, path: Path, manifest: Mapping[str, Any], model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        reader = dcp.HuggingFaceStorageReader(str(path))
        targets, states = _targets(model, optimizers, reader.read_metadata(), manifest["optimizer"], path)
        flat = {name: _flat(tensor) for name, tensor in targets.items()}
        dcp.load(flat, storage_reader=reader, process_group=self._group)
        for optimizer, parameter, values in states:
            optimizer.state[parameter] = values

    def _manifest(self) -> dict[str, Any]:
        return {
            "identity": asdict(self._facts.identity),
            "record": dict(self._facts.record),
            "recipe": dict(self._facts.recipe),
            "world_size": self._world,
            "torch": torch.__version__,
        }

    def _write(self, tensors: dict[str, Tensor], manifest: Mapping[str, Any]) -> None:
        """Everything between the copy in memory and the published folder."""
        began, step = time.perf_counter(), manifest["step"]
        temporary = self._folder.temporary(step)
        try:
            self._together(lambda: self._begin(temporary))
            flat = {name: _flat(tensor) for name, tensor in tensors.items()}
            writer = dcp.HuggingFaceStorageWriter(
                str(temporary), fqn_to_index_mapping=_file_of_each(flat), save_distributed=True
            )
            self._together(lambda: dcp.save(flat, storage_writer=writer, process_group=self._group))
            mine = self._together(lambda: self._digested(temporary))
            files = {name: entry for part in self._gather(mine) for name, entry in part.items()}
            self._together(lambda: self._publish(step, {**manifest, "files": files}, began))
        except CheckpointError:
            if self._rank == 0:  # its room may be what the next save needs
                self._folder.sweep()
            raise

    def _begin(self, temporary: Path) -> None:
        if self._rank == 0:
            self._folder.sweep()
            temporary.mkdir(parents=True)

    def _digested(self, temporary: Path) -> dict[str, dict[str, Any]]:
        """Names the files of this rank after what is in them, and digests them."""
        entries = {}
        for file in sorted(temporary.glob(f"shard-{self._rank + 1:05d}-model-*.safetensors")):
            number = int(file.stem.split("-")[3])
            kind = "optimizer" if number % 2 == 0 else "model"
            named = file.rename(temporary / f"{kind}-{(number + 1) // 2:03d}-rank-{self._rank:05d}.safetensors")
            entries[named.name] = {"size": named.stat().st_size, "sha256": sha256_file(named)}
        return entries

    def _publish(self, step: int, manifest: dict[str, Any], began: float) -> None:
        if self._rank:
            return
        temporary = self._folder.temporary(step)
        write_json(temporary / "config.json", to_hugging_face(self._facts.model_config, "float32"))
        if self._facts.tokenizer is not None:
            self._facts.tokenizer.save(temporary)
        for file in temporary.iterdir():
            manifest["files"].setdefault(file.name, {"size": file.stat().st_size, "sha256": sha256_file(file)})
        path = self._folder.publish(step, manifest)
        num_bytes = sum(entry["size"] for entry in manifest["files"].values())
        log.info("saved %s: %.1f MB in %.1f s", path, num_bytes / 1e6, time.perf_counter() - began)
        self._folder.prune(step, **self._keep)
        if self._on_published is None:
            return
        try:
            self._on_published(path)
        except (OSError, AquilaError) as error:  # the checkpoint is there: this save has not failed
            log.error("step %d is saved, but what is made of it could not be: %s", step, _reason(error))

    def _together(self, action: Callable[[], _Result]) -> _Result:
        """Runs `action` on every rank. What fails on one of them is a `CheckpointError` on all, so none waits for
        ever."""
        result: Any = None
        problem = None
        try:
            result = action()
        except (OSError, CheckpointError, dcp.api.CheckpointException) as error:
            problem = _reason(error)
        problems = self._gather(problem)
        for rank, text in enumerate(problems):
            if text is not None:
                raise CheckpointError(f"rank {rank}: {text}" if self._world > 1 else text)
        return result

    def _gather(self, value: _Result) -> list[_Result]:
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self._world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def _broadcast(self, value: _Result) -> _Result:
        """What rank 0 has."""
        return self._gather(value)[0]


class _Save:
    """One save, in this thread or beside it; `error` is what went wrong."""

    def __init__(self, step: int, write: Callable[[], None]) -> None:
        self.step = step
        self._write = write
        self._thread: threading.Thread | None = None
        self._accounted = False
        self.error: Exception | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self.run, name=f"save-{self.step}", daemon=True)
        self._thread.start()

    def run(self) -> None:
        try:
            self._write()
        except Exception as error:  # noqa: BLE001  handed to the training thread, which raises or reports it
            self.error = error

    def finish(self) -> bool:
        """Waits for the end; True the first time, when the outcome is news."""
        if self._thread is not None:
            self._thread.join()
        news, self._accounted = not self._accounted, True
        return news


def _gather_tensors(model: nn.Module, optimizers: Sequence[Optimizer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What is saved: tensors by name, and the plain numbers that an optimizer keeps. Frozen weights are not saved."""
    tensors = {MODEL + name: parameter.detach() for name, parameter in _trained(model).items()}
    scalars: dict[str, dict[str, Any]] = {}
    for optimizer, name, parameter in _optimized(model, optimizers):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMIZER}{name}.{key}"] = value
            else:
                scalars.setdefault(name, {})[key] = value
    return tensors, scalars


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _optimized(model: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[tuple[Optimizer, str, nn.Parameter]]:
    names = {parameter: name for name, parameter in _trained(model).items()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield optimizer, names[parameter], parameter


def _targets(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    metadata: Metadata,
    scalars: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> tuple[dict[str, Tensor], list[tuple[Optimizer, nn.Parameter, dict[str, Any]]]]:
    """Where each saved tensor goes: into the weights, and into new state of the optimizers.

    Raises:
        CheckpointError: the weights that are trained are not those that were saved.
    """
    targets: dict[str, Tensor] = {MODEL + name: parameter.detach() for name, parameter in _trained(model).items()}
    saved = {
        name: item for name, item in metadata.state_dict_metadata.items() if isinstance(item, TensorStorageMetadata)
    }
    if problem := _difference(targets, saved):
        raise CheckpointError(f"{path}: does not hold the weights that this run trains: {problem}")
    states = []
    for optimizer, name, parameter in _optimized(model, optimizers):
        prefix = f"{OPTIMIZER}{name}."
        values = dict(scalars.get(name, {}))
        for full, item in saved.items():
            key = full.removeprefix(prefix)
            if full.startswith(prefix) and "." not in key:
                values[key] = targets[full] = _room_for(item, parameter, optimizer)
        states.append((optimizer, parameter, values))
    return targets, states


def _difference(targets: Mapping[str, Tensor], saved: Mapping[str, TensorStorageMetadata]) -> str:
    weights = {name for name in saved if name.startswith(MODEL)}
    for words, names in (("it lacks", targets.keys() - weights), ("it also has", weights - targets.keys())):
        if names:
            return f"{words} {len(names)} of them, such as {min(names).removeprefix(MODEL)}"
    for name, tensor in targets.items():
        if tuple(saved[name].size) != tuple(tensor.shape):
            return f"{name.removeprefix(MODEL)} is {list(saved[name].size)}, the model has {list(tensor.shape)}"
    return ""


def _room_for(item: TensorStorageMetadata, parameter: nn.Parameter, optimizer: Optimizer) -> Tensor:
    """An empty tensor for a piece of optimizer state: laid out like its parameter, or the same on every rank."""
    dtype, shape = item.properties.dtype, tuple(item.size)
    if shape == tuple(parameter.shape):
        return torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
    group = next(group for group in optimizer.param_groups if any(parameter is each for each in group["params"]))
    on_device = group.get("fused") or group.get("capturable")  # torch keeps Adam's step on the host otherwise
    shape = () if shape == (1,) else shape  # see _flat
    return torch.zeros(shape, dtype=dtype, device=parameter.device if on_device else "cpu")


def _flat(tensor: Tensor) -> Tensor:
    """A single number as a tensor of one element: safetensors cannot give out a part of one without dimensions."""
    return tensor.view(1) if tensor.dim() == 0 else tensor


def _file_of_each(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Which file of a rank each tensor goes to: odd numbers for weights, even ones for the optimizer."""
    files, filled = {}, {MODEL: 0, OPTIMIZER: 0}
    for name, tensor in tensors.items():
        kind = MODEL if name.startswith(MODEL) else OPTIMIZER
        files[name] = 2 * (filled[kind] // MAX_FILE_BYTES) + (1 if kind == MODEL else 2)
        filled[kind] += local(tensor).nbytes
    return files


def _reason(error: BaseException) -> str:
    """The first line of why, without the traceback that torch puts into its message."""
    if isinstance(error, dcp.api.CheckpointException):
        inner = next(iter(error.failures.values()))[0]
        return _reason(inner)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    text = str(error).splitlines()[0] if str(error) else "no reason given"
    return text if isinstance(error, AquilaError) else f"{type(error).__name__}: {text}"
