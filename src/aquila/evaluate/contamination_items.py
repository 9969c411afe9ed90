"""The texts of a benchmark that a corpus is searched for."""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquila.data.readers import is_json_lines
from aquila.errors import EvaluationError
from aquila.evaluate.corpus import strings_in
from aquila.evaluate.overlap import Part
from aquila.evaluate.tasks import Benchmark
from aquila.files import sha256_file

_NAMES = ("task_id", "id", "name", "qid")  # of a record, in a file of another benchmark


@dataclass(frozen=True)
class Items:
    """A benchmark's texts to look for. `sha256` is that of its file."""

    name: str
    language: str | None
    file: str
    sha256: str
    parts: Sequence[Part]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "language": self.language, "file": self.file, "sha256": self.sha256}


def items_of(benchmark: Benchmark) -> Items:
    """Prompt, published solution and test of every task."""
    parts = [
        Part(task.task_id, name, text)
        for task in benchmark.tasks.values()
        for name, text in (("prompt", task.prompt), ("solution", task.canonical_solution), ("test", task.test))
    ]
    return Items(benchmark.name, benchmark.language, benchmark.path.name, benchmark.sha256, parts)


def items_of_file(path: Path) -> Items:
    """Every text of every record of a file with JSON lines, or one JSON list, packed (.gz) or not.

    Raises:
        EvaluationError: it is neither, or holds no text.
    """
    parts = []
    for number, record in enumerate(_records(path), 1):
        if not isinstance(record, dict):
            raise EvaluationError(f"{path}: record {number} is a {type(record).__name__}, and must be an object")
        key = next((key for key in _NAMES if isinstance(record.get(key), (str, int))), None)
        item = f"{path.stem.split('.')[0]}/{number - 1}" if key is None else str(record[key])
        texts = ((name, "\n".join(strings_in(value))) for name, value in record.items() if name != key)
        parts += [Part(item, name, text) for name, text in texts if text.strip()]
    if not parts:
        raise EvaluationError(f"{path}: holds no text; give a file with a JSON object a line")
    return Items(path.name, None, path.name, sha256_file(path), parts)


def _records(path: Path) -> Iterator[Any]:
    text = _read_text(path)
    if not is_json_lines(path) and text.lstrip().startswith("["):
        yield from _parsed(path, 1, text)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _parsed(path, number, line)


def _parsed(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}:{number}: is not JSON ({error}); one object a line, or one list") from None


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, zlib.error) as error:
        raise EvaluationError(f"{path}: cannot be read: {error}; give a benchmark's file") from None
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
