"""What a run tells about itself: `metrics.jsonl`, a line a step, always; and a tracker where one is asked for.

A resumed run drops the lines behind the step it goes on from and writes them again: the file is that of a run that
was never stopped. `evaluations.jsonl` and `samples.jsonl` beside it are kept in the same way."""

import importlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from aquila.errors import ConfigError
from aquila.files import atomic_write
from aquila.train.recipe import LogConfig

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
EVALUATIONS = "evaluations.jsonl"
SAMPLES = "samples.jsonl"


class JsonLines:
    """A file of JSON objects that carry a `step`, appended to one at a time, each at once on its way to the disk."""

    def __init__(self, path: Path, *, last_step: int) -> None:
        """Opens `path` and drops what is behind `last_step`, a half-written last line too."""
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= last_step]
        if path.exists():
            with atomic_write(path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")
        self._path, self._file = path, path.open("ab", buffering=0)
        self._waiting = b""  # what the disk has not taken yet
        self._warned = False

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a line. Where the disk is full it waits in memory, with those that follow; a warning says so once."""
        line = {key: _finite(value) for key, value in record.items()}
        self._waiting += (json.dumps(line, ensure_ascii=False) + "\n").encode()
        self._flush()

    def _flush(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if not self._warned:
                log.warning("%s: cannot be written: %s; its lines wait in memory", self._path, error.strerror)
            self._warned = True

    def close(self) -> None:
        """Closes the file; what still waits is lost, aloud."""
        self._flush()
        if self._waiting:
            log.error("%s: %d lines could not be written", self._path, self._waiting.count(b"\n"))
            self._waiting = b""
        try:
            self._file.close()
        except OSError as error:  # a network file system says so late
            log.error("%s: %s", self._path, error.strerror)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines; what a killed process left of a last line is passed over."""
    return [json.loads(line) for line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")  # a line may have been cut inside a character
    return [line + "\n" for line in text.split("\n")[:-1] if _is_record(line)]


def _is_record(line: str) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return False
    return isinstance(record, dict) and isinstance(record.get("step"), int)


def _finite(value: Any) -> Any:
    """JSON has no word for what is not a number: null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@runtime_checkable
class Tracker(Protocol):
    """Where metrics go besides the file."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


def open_tracker(config: LogConfig, run_dir: Path, recipe: Mapping[str, Any]) -> Tracker | None:
    """The tracker that the recipe names. `ConfigError` when its package is not installed."""
    if config.tracker is None:
        return None
    name = "torch.utils.tensorboard" if config.tracker == "tensorboard" else config.tracker
    try:
        module = importlib.import_module(name)
    except ImportError:
        raise ConfigError(
            f"log.tracker: {config.tracker} is not installed; run `pip install {config.tracker}`, or leave the tracker "
            f"out ({METRICS} is always written)"
        ) from None
    if config.tracker == "tensorboard":
        return _TensorBoard(module.SummaryWriter(str(run_dir / "tensorboard")))
    return _InitLogFinish(module, project=config.project, name=run_dir.name, config=dict(recipe))


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _InitLogFinish:
    """wandb, trackio and swanlab speak the same three words."""

    def __init__(self, module: Any, **run: Any) -> None:
        self._module = module
        module.init(**run)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        self._module.finish()


class Metrics:
    """The files and the tracker of one run; only rank 0 makes one."""

    def __init__(self, run_dir: Path, config: LogConfig, recipe: Mapping[str, Any], *, last_step: int) -> None:
        self._steps = JsonLines(run_dir / METRICS, last_step=last_step)
        self._evaluations = JsonLines(run_dir / EVALUATIONS, last_step=last_step)
        self._samples = JsonLines(run_dir / SAMPLES, last_step=last_step)
        self._tracker = open_tracker(config, run_dir, recipe)

    def step(self, record: Mapping[str, Any]) -> None:
        self._steps.write(record)
        self._track({f"train/{key}": value for key, value in record.items() if key != "step"}, record["step"])

    def evaluation(self, record: Mapping[str, Any]) -> None:
        self._evaluations.write(record)
        prefix = f"eval/{record['name']}/"
        self._track({prefix + key: record[key] for key in ("loss", "bits_per_byte")}, record["step"])

    def sample(self, record: Mapping[str, Any]) -> None:
        self._samples.write(record)

    def _track(self, values: Mapping[str, Any], step: int) -> None:
        if self._tracker is not None:
            numbers = {key: value for key, value in values.items() if isinstance(value, (int, float))}
            self._tracker.log(numbers, step)

    def close(self) -> None:
        for file in (self._steps, self._evaluations, self._samples):
            file.close()
        if self._tracker is not None:
            self._tracker.close()
