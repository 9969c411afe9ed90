"""The folder of one run: what was asked, what the model wrote, what the judge said. Append-only.

run.json        what scores depend on; written once, whole
samples.jsonl   a line an answer
verdicts.jsonl  a line a judged answer

A run that was killed leaves at worst a line without its end, which is dropped when the folder is opened again: then
what is missing is drawn and judged. A folder is open for writing once at a time.
"""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from aquila import __version__
from aquila.errors import ConfigError, EvaluationError
from aquila.evaluate.sampling import Key
from aquila.files import atomic_write

FORMAT, FORMAT_VERSION = "aquila-eval-run", 1
_FSYNC_SECONDS = 1.0  # a power cut loses no more than that
_MAY_DIFFER = frozenset({"created", "versions", "model.url"})  # of a run and of those who go on with it


@dataclass
class Lines:
    """A file of JSON lines, each with a task and a number, which only grows."""

    path: Path
    rows: dict[Key, dict[str, Any]] = field(default_factory=dict)
    _descriptor: int = -1
    _size: int = 0
    _synced: float = 0.0

    def open(self) -> None:
        """For writing. Drops a line without its end."""
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        self._size = self.read()
        if os.fstat(self._descriptor).st_size > self._size:
            os.ftruncate(self._descriptor, self._size)
        os.lseek(self._descriptor, self._size, os.SEEK_SET)

    def read(self) -> int:
        """Reads what is whole; gives its size in bytes."""
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.split(b"\n")[:-1]
        size = 0
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                key = str(row["task_id"]), int(row["i"])
            except (ValueError, LookupError, TypeError) as error:
                if number == len(lines):  # what a power cut made of it
                    break
                raise EvaluationError(
                    f"{self.path}:{number}: is no line of a run ({type(error).__name__}: {error}); take the line out: "
                    "what is missing is made again"
                ) from None
            self.rows[key] = row  # the last word counts: a sample may be judged again
            size += len(line) + 1
        return size

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends lines. On a full disk nothing half-written stays.

        Raises:
            EvaluationError: they cannot be written; what was there before is whole.
        """
        rows = [dict(row) for row in rows]
        data = b"".join(json.dumps(row, ensure_ascii=False).encode(errors="surrogatepass") + b"\n" for row in rows)
        try:
            _write_all(self._descriptor, data)
            if time.monotonic() - self._synced > _FSYNC_SECONDS:
                self.sync()
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
                os.lseek(self._descriptor, self._size, os.SEEK_SET)
            raise EvaluationError(
                f"{self.path}: cannot be written: {error.strerror}; {len(self.rows)} lines are kept; make room, then "
                "run the same command again: it goes on from them"
            ) from None
        self._size += len(data)
        for row in rows:
            self.rows[row["task_id"], row["i"]] = row

    def sync(self) -> None:
        os.fsync(self._descriptor)
        self._synced = time.monotonic()

    def close(self) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):
                self.sync()
            os.close(self._descriptor)
            self._descriptor = -1


class RunFolder:
    """A run that is open for writing: a new one, or one that goes on.

    Args:
        path: a new or empty folder, or that of the same run.
        facts: what goes into `run.json` beside format, time and versions. A run that goes on must have the same.

    Raises:
        ConfigError: the folder is of another run; the message names the first setting that differs.
        EvaluationError: another process writes there, or its files cannot be read or written.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EvaluationError(f"{path}: cannot be made: {error.strerror}; give another --out") from None
        self._lock = _lock(path)
        try:
            self.facts = self._take(json.loads(json.dumps(dict(facts))))
            self._samples, self._verdicts = Lines(path / "samples.jsonl"), Lines(path / "verdicts.jsonl")
            self._samples.open()
            self._verdicts.open()
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def samples(self) -> Mapping[Key, dict[str, Any]]:
        return self._samples.rows

    @property
    def verdicts(self) -> Mapping[Key, dict[str, Any]]:
        return self._verdicts.rows

    def add_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Lines with at least `task_id` and `i`. See `Lines.add`."""
        self._samples.add(rows)

    def add_verdicts(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Lines with at least `task_id`, `i` and `status`. See `Lines.add`."""
        self._verdicts.add(rows)

    def close(self) -> None:
        self._samples.close()
        self._verdicts.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The content of `run.json`, which is written where there is none."""
        file = self.path / "run.json"
        if file.exists():
            recorded = read_facts(self.path)
            if difference := _difference(recorded, {**recorded, **facts}):
                name, theirs, ours = difference
                raise ConfigError(
                    f"{self.path} is a run with {name} {theirs}, not {ours}; give the same to go on with it, or "
                    "another --out"
                )
            return recorded
        strangers = [each.name for each in self.path.iterdir() if each.name != _LOCK_NAME]
        if strangers:
            raise ConfigError(
                f"{self.path} is no folder of a run and not empty ({sorted(strangers)[0]}); give a new --out"
            )
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **facts}
        content |= {"versions": _versions(), "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        try:
            with atomic_write(file) as temporary:
                temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise EvaluationError(
                f"{file}: cannot be written: {error.strerror}; make room, or give another --out"
            ) from None
        return content


def read_facts(path: Path) -> dict[str, Any]:
    """`run.json` of a folder.

    Raises:
        EvaluationError: there is none, or it is not ours.
    """
    file = path / "run.json"
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise EvaluationError(f"{path}: is no folder of a run: it has no run.json") from None
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{file}: cannot be read ({error})") from None
    if not isinstance(found, dict) or (found.get("format"), found.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise EvaluationError(f"{file}: is not the description of a run that this program reads ({FORMAT} 1)")
    return found


def read_rows(path: Path, name: str) -> dict[Key, dict[str, Any]]:
    """The whole lines of `samples.jsonl` or `verdicts.jsonl` of a run, by task and number; also while it is written."""
    lines = Lines(path / name)
    if lines.path.exists():
        lines.read()
    return lines.rows


_LOCK_NAME = ".lock"


def _lock(path: Path) -> int:
    """Held until it is closed, or the process ends, however it does."""
    descriptor = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 20).decode(errors="replace").strip() or "?"
        os.close(descriptor)
        raise EvaluationError(
            f"{path}: process {holder} is writing this run; wait for it, or give another --out"
        ) from None
    with suppress(OSError):  # a full disk is for the run to report
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> tuple[str, str, str] | None:
    """The first setting that differs: its name and both values, as JSON."""
    for name in [*theirs, *(name for name in ours if name not in theirs)]:
        left, right, full = theirs.get(name), ours.get(name), f"{prefix}{name}"
        if full in _MAY_DIFFER or left == right:
            continue
        if isinstance(left, dict) and isinstance(right, dict):
            if found := _difference(left, right, f"{full}."):
                return found
            continue
        return full, json.dumps(left, ensure_ascii=False), json.dumps(right, ensure_ascii=False)
    return None


def _versions() -> dict[str, str]:
    found = {"aquila": __version__, "python": platform.python_version()}
    for package in ("numpy", "torch"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
