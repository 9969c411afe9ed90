"""Files of samples: what a model wrote, in the formats of other harnesses.

human-eval   {"task_id", "completion"}    a line a sample; goes on from the prompt
CodeGeeX     {"task_id", "generation"}    the same under another name
evalplus     {"task_id", "solution"}      a whole program
bigcode      [[text, ..], ..]             one list a task, in the benchmark's order; whole programs
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquila.config import suggest
from aquila.errors import EvaluationError
from aquila.evaluate.tasks import Benchmark

_TEXT_FIELDS = {"completion": False, "generation": False, "solution": True}  # name -> whether it is a whole program


@dataclass(frozen=True)
class Sample:
    """One answer to a task.

    Attributes:
        index: its number among the answers to the task.
        text: what goes on from the prompt, or a whole program.
        whole: which of the two.
    """

    task_id: str
    index: int
    text: str
    whole: bool


def read_samples(path: Path, benchmark: Benchmark) -> list[Sample]:
    """All samples of a file, packed or not, in its order.

    Raises:
        EvaluationError: a line that is no sample of the benchmark, with its number.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, zlib.error) as error:
        raise EvaluationError(f"{path}: cannot be read: {error}; give a file of samples") from None
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    lists = text.lstrip().startswith("[")
    rows = _bigcode_rows(path, text, benchmark) if lists else json_rows(path, text, "task_id and completion")
    samples: list[Sample] = []
    counts: dict[str, int] = {}
    given: dict[tuple[str, int], int] = {}
    for number, row in rows:
        task_id, content, whole = _read_row(f"{path}:{number}", row, benchmark)
        index = counts.get(task_id, 0)
        counts[task_id] = index + 1
        own = row.get("i")
        if isinstance(own, int):
            if (task_id, own) in given:
                raise EvaluationError(
                    f"{path}:{number}: sample i={own} of {task_id} was on line {given[task_id, own]} already; keep one"
                )
            given[task_id, own] = number
        samples.append(Sample(task_id, index, content, whole))
    if not samples:
        raise EvaluationError(f"{path}: holds no samples; each line is a JSON object with task_id and completion")
    return samples


def json_rows(path: Path, text: str, holds: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with one a line, with their line numbers; `holds` says to people what each has.

    Raises:
        EvaluationError: a line is no JSON object.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise EvaluationError(f"{path}:{number}: is not JSON ({error}); one object a line") from None
        if not isinstance(row, dict):
            raise EvaluationError(f"{path}:{number}: is a {type(row).__name__}, not an object with {holds}")
        yield number, row


def _bigcode_rows(path: Path, text: str, benchmark: Benchmark) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lists = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: is not JSON ({error})") from None
    if len(lists) > len(benchmark.tasks):
        raise EvaluationError(
            f"{path}: has {len(lists)} lists, {benchmark.name} in {benchmark.language} has {len(benchmark.tasks)} tasks"
        )
    for number, (task_id, texts) in enumerate(zip(benchmark.tasks, lists, strict=False), 1):
        if not isinstance(texts, list):
            raise EvaluationError(f"{path}: entry {number} is a {type(texts).__name__}, not a list of programs")
        for solution in texts:
            yield number, {"task_id": task_id, "solution": solution}


def _read_row(where: str, row: dict[str, Any], benchmark: Benchmark) -> tuple[str, str, bool]:
    task_id = row.get("task_id")
    if not isinstance(task_id, str):
        raise EvaluationError(
            f"{where}: field task_id is {task_id!r}, and must be a text such as {next(iter(benchmark.tasks))!r}"
        )
    if task_id not in benchmark.tasks:
        near = suggest(task_id, benchmark.tasks)
        raise EvaluationError(f"{where}: task_id {task_id!r} is not in {benchmark.name} ({benchmark.language}){near}")
    fields = [name for name in _TEXT_FIELDS if name in row]
    if len(fields) != 1:
        found = " and ".join(fields) or "none"
        raise EvaluationError(f"{where}: needs one of the fields {', '.join(_TEXT_FIELDS)}; found {found}")
    text = row[fields[0]]
    if not isinstance(text, str):
        raise EvaluationError(f"{where}: field {fields[0]} is a {type(text).__name__}, and must be a text")
    return task_id, text, _TEXT_FIELDS[fields[0]]
