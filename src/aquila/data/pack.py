"""Text to a token shard: `aquila data pack`.

Each document becomes `[BOS] ids EOS`. Special tokens that a text spells are text. The input is cut into units
(`readers.py`), each of which becomes a small shard in the folder `PREFIX.parts`; at the end they are put together in
order and the folder goes. Which process did a unit, and in how many runs, makes no difference to a single byte.
"""

import fcntl
import json
import logging
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aquila.data.pack_worker import Counts, counts_path, encode_unit, read_counts
from aquila.data.processes import Question, ask_processes
from aquila.data.readers import Unit, plan_units
from aquila.data.shards import Shard, idx_path, shard_prefix, token_dtype, write_shard
from aquila.data.sidecar import Sidecar, tokenizer_digest
from aquila.errors import ConfigError, DataError
from aquila.files import atomic_write
from aquila.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_LOCK = ".lock"

Progress = Callable[[int, int], None]  # units done and in all


@dataclass(frozen=True)
class PackReport:
    """What was written, and what was left out: `invalid` has `FILE, line N: reason` for each such record."""

    prefix: Path
    num_documents: int
    num_tokens: int
    num_bytes: int
    num_empty: int
    num_binary: int
    invalid: tuple[str, ...]


def pack(
    inputs: Sequence[Path],
    tokenizer: Tokenizer,
    prefix: Path,
    *,
    workers: int = 1,
    text_key: str = "text",
    include: Sequence[str] = (),
    progress: Progress = lambda done, total: None,
) -> PackReport:
    """Encodes files and folders into the shard `prefix`. After a kill, the same call goes on where it was.

    Args:
        inputs: as `plan_units` takes them.
        tokenizer: with an end token.
        prefix: what .bin, .idx and .json are put behind; an older shard of ours there is replaced.
        workers: processes.
        text_key: field of a JSON line, or column, that holds the text.
        include: patterns of the files that are wanted of a folder.
        progress: called as units are done.

    Raises:
        ConfigError: an input that does not exist, a missing library, a tokenizer without an end token, a shard of
            another program in the way.
        DataError: a damaged file, or no document at all.
    """
    prefix = shard_prefix(prefix)
    if not tokenizer.eos_token_ids:
        raise ConfigError("this tokenizer has no end token, and a document must end; use another one")
    if Sidecar.read(prefix) is None and idx_path(prefix).exists():
        raise ConfigError(
            f"{idx_path(prefix)}: a shard that `aquila data pack` did not write is there; choose another --out"
        )
    units = plan_units(inputs, include=include)
    folder = prefix.with_name(f"{prefix.name}.parts")
    tasks = [_Task(unit, f"{index:06d}") for index, unit in enumerate(units)]
    with _only_us(folder):
        _prepare(folder, units, tokenizer, text_key)
        _encode(tasks, folder, tokenizer, text_key, workers=workers, progress=progress)
        report = _join(prefix, folder, tasks, tokenizer)
        shutil.rmtree(folder)
    return report


@dataclass(frozen=True)
class _Task:
    unit: Unit
    part: str

    def message(self, text_key: str) -> str:
        paths = [str(path) for path in self.unit.paths]
        return json.dumps({**asdict(self.unit), "paths": paths, "part": self.part, "text_key": text_key}) + "\n"


@contextmanager
def _only_us(folder: Path) -> Generator[None]:
    """Makes the folder and keeps other processes from working in it; the lock goes with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder}: another process is packing here; wait, or choose another --out") from None
        yield


def _prepare(folder: Path, units: Sequence[Unit], tokenizer: Tokenizer, text_key: str) -> None:
    """Empties the folder of parts unless they are of the same input and tokenizer."""
    plan = json.dumps(
        {
            "tokenizer": tokenizer_digest(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_ids[0],
            "text_key": text_key,
            "units": [_describe(unit) for unit in units],
        },
        indent=1,
    )
    plan_path = folder / "plan.json"
    if not plan_path.is_file() or plan_path.read_text(encoding="utf-8") != plan:
        leftovers = [path for path in folder.iterdir() if path.name != _LOCK]
        if not plan_path.is_file() and any(not path.name.startswith(".") for path in leftovers):
            raise ConfigError(f"{folder}: is in the way and not of an earlier run; move it, or choose another --out")
        if leftovers:
            log.info("%s: of a run with other input or another tokenizer; starting again", folder)
        plan_path.unlink(missing_ok=True)
        for path in leftovers:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        with atomic_write(plan_path) as temporary:
            temporary.write_text(plan, encoding="utf-8")
    tokenizer.save(folder / "tokenizer")


def _encode(
    tasks: Sequence[_Task], folder: Path, tokenizer: Tokenizer, text_key: str, *, workers: int, progress: Progress
) -> None:
    """Does the tasks that no earlier run has done."""
    missing = [task for task in tasks if not _is_done(folder / task.part)]
    done = len(tasks) - len(missing)
    if done:
        log.info("%s: %d of %d parts are there already", folder, done, len(tasks))
    progress(done, len(tasks))

    def on_done() -> None:
        nonlocal done
        done += 1
        progress(done, len(tasks))

    if workers > 1 and len(missing) > 1:
        questions = [Question(task.message(text_key), str(task.unit.paths[0])) for task in missing]
        ask_processes(
            ["-m", "aquila.data.pack_worker", str(folder)],
            questions,
            min(workers, len(missing)),
            lambda number, answer: on_done(),
            hint="the same command goes on from here, ",
        )
        return
    for task in missing:
        encode_unit(task.unit, folder / task.part, tokenizer, text_key=text_key)
        on_done()


def _describe(unit: Unit) -> dict[str, Any]:
    stats = [path.stat() for path in unit.paths]
    files = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in zip(unit.paths, stats, strict=True)]
    return {"kind": unit.kind, "files": files, "start": unit.start, "stop": unit.stop}


def _is_done(part: Path) -> bool:
    if not counts_path(part).is_file():
        return False
    try:
        return Shard(part).num_documents == read_counts(part).documents
    except (DataError, ValueError, TypeError, KeyError):  # half on the disk after a power cut
        return False


def _join(prefix: Path, folder: Path, tasks: Sequence[_Task], tokenizer: Tokenizer) -> PackReport:
    total = Counts()
    named: list[str] = []
    lines_before: dict[Path, int] = {}  # of a file, in the units before
    with write_shard(prefix, token_dtype(tokenizer.vocab_size)) as writer:
        for task in tasks:
            counts = read_counts(folder / task.part)
            first = lines_before.get(task.unit.paths[0], 0)
            named += [_name(task.unit, first + line, path, reason) for line, path, reason in counts.invalid]
            if task.unit.kind != "files":
                lines_before[task.unit.paths[0]] = first + counts.lines
            total.bytes += counts.bytes
            total.empty += counts.empty
            total.binary += counts.binary
            writer.add_shard(Shard(folder / task.part))
        if not writer.lengths:
            skipped = f"; {named[0]}" if named else ""
            raise DataError(
                f"{prefix}: the input has no text to pack ({total.binary} binary files, {len(named)} invalid records"
                f"{skipped})"
            )
        writer.sidecar = Sidecar(
            tokenizer=tokenizer_digest(tokenizer),
            vocab_size=tokenizer.vocab_size,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_ids[0],
            num_documents=len(writer.lengths),
            num_tokens=writer.num_tokens,
            num_bytes=total.bytes,
            num_invalid=len(named),
            sha256=writer.sha256(),
        )
    return PackReport(
        prefix, len(writer.lengths), writer.num_tokens, total.bytes, total.empty, total.binary, tuple(named)
    )


def _name(unit: Unit, line: int, path: str, reason: str) -> str:
    if path:
        return f"{path}: {reason}"
    return f"{unit.paths[0]}, {'row' if unit.kind == 'parquet' else 'line'} {line}: {reason}"
