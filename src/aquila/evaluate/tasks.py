"""Benchmarks of code: HumanEval and HumanEval-X, as their published files have them.

A file is known by its sha256. Another file, an older copy with tests that are never called for one, is refused: its
scores would carry a name that is not theirs.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from aquila.config import read_yaml_text
from aquila.errors import ConfigError, EvaluationError

BENCHMARKS = ("humaneval", "humaneval-x")


@dataclass(frozen=True)
class Task:
    """A problem.

    Attributes:
        prompt: imports, signature and docstring, with a line break at the end; what a model goes on from.
        declaration: the prompt without the docstring; empty in HumanEval.
        setup: what Go's test file begins with.
        imports: what Go's prompt begins with.
        entry_point: the function's name.
    """

    task_id: str
    language: str
    prompt: str
    canonical_solution: str
    test: str
    entry_point: str
    declaration: str = ""
    setup: str = ""
    imports: str = ""


@dataclass(frozen=True)
class Benchmark:
    """One file's tasks, in its order."""

    name: str
    language: str
    tasks: Mapping[str, Task]
    path: Path
    sha256: str


@dataclass(frozen=True)
class KnownIssue:
    """What is wrong with a published item, and how it is mended.

    Attributes:
        solution: to use instead of the published one, where that is broken.
        test_edit: a text in the tests and what to put in its place, where they do not test the sample.
    """

    problem: str
    solution: str | None
    test_edit: tuple[str, str] | None


def read_benchmark(name: str, path: Path, language: str | None = None) -> Benchmark:
    """Reads one language's file.

    Args:
        name: `humaneval` or `humaneval-x`.
        path: the file, or a folder or CodeGeeX checkout that holds it.
        language: that it has to be of; a folder needs it.

    Raises:
        EvaluationError: it is not the published file, or cannot be read.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"benchmark {name!r} is unknown; there are {', '.join(BENCHMARKS)}")
    path = _find_file(name, path, language)
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}; give the benchmark's file") from None
    digest = hashlib.sha256(packed).hexdigest()
    pin = _pins().get(digest)
    if pin is None or pin["bench"] != name:
        known = ", ".join(f"{each['file']} {sha[:12]}..." for sha, each in _pins().items() if each["bench"] == name)
        raise EvaluationError(
            f"{path}: its sha256 is {digest}, that of no file of {name} (published: {known}); fetch the published file"
        )
    if language is not None and pin["language"] != language:
        raise EvaluationError(f"{path}: holds {pin['language']}, not {language}; give that language's file")
    lines = gzip.decompress(packed).decode().splitlines()
    tasks = [_read_task(json.loads(line), pin["language"]) for line in lines if line.strip()]
    return Benchmark(name, pin["language"], {task.task_id: task for task in tasks}, path, digest)


def file_names() -> list[tuple[str, str, str]]:
    """Benchmark, language and name of every published file."""
    return [(each["bench"], each["language"], each["file"]) for each in _pins().values()]


def reference_solution(task: Task) -> str:
    """A continuation of the prompt that passes: the published one, or the mended one where that does not."""
    issue = known_issues().get(task.task_id)
    return issue.solution if issue and issue.solution else task.canonical_solution


def sound_test(task: Task) -> str:
    """The tests, mended where the published ones do not test the sample."""
    issue = known_issues().get(task.task_id)
    return task.test.replace(*issue.test_edit) if issue and issue.test_edit else task.test


@cache
def known_issues() -> Mapping[str, KnownIssue]:
    """By task id."""
    listed = _data()["known_issues"]
    return {
        key: KnownIssue(
            value["problem"], value.get("solution"), tuple(value["test_edit"]) if "test_edit" in value else None
        )
        for key, value in listed.items()
    }


def _find_file(name: str, path: Path, language: str | None) -> Path:
    if not path.is_dir():
        return path
    if name == "humaneval":
        candidates = [path / "HumanEval.jsonl.gz", path / "data" / "HumanEval.jsonl.gz"]
    elif language is None:
        raise ConfigError(f"{path} is a folder: say which language of {name}")
    else:
        file = f"humaneval_{language}.jsonl.gz"
        checkout = path / "codegeex" / "benchmark" / "humaneval-x"
        candidates = [path / file, *(top / language / "data" / file for top in (path, checkout))]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise EvaluationError(f"{path}: has no {candidates[0].name}; give the folder or checkout that holds it")


def _read_task(row: dict[str, Any], language: str) -> Task:
    prompt = row["prompt"]
    if language == "rust":  # there the prompt is the comment only
        prompt += row["declaration"]
    return Task(
        task_id=row["task_id"],
        language=language,
        prompt=prompt,
        canonical_solution=row["canonical_solution"],
        test=row["test"],
        entry_point=row.get("entry_point") or _entry_point(row["declaration"], language),
        declaration=row.get("declaration", ""),
        setup=row.get("test_setup", ""),
        imports=row.get("import", ""),
    )


_FUNCTIONS = {
    "python": r"^def (\w+)\(",
    "js": r"^(?:const|let|var|function)\s+(\w+)",
    "go": r"^func (\w+)\(",
    "rust": r"^\s*(?:pub )?fn (\w+)",
    "java": r"^    public .*?(\w+)\(",
    "cpp": r"^\S.*?(\w+)\s*\([^()]*\)\s*\{\s*$",
}


def _entry_point(declaration: str, language: str) -> str:
    return re.findall(_FUNCTIONS[language], declaration, re.MULTILINE)[-1]


def _pins() -> Mapping[str, dict[str, str]]:
    return _data()["files"]


@cache
def _data() -> dict[str, Any]:
    text = (files("aquila.evaluate") / "benchmarks.yaml").read_text(encoding="utf-8")
    return read_yaml_text(text, where="benchmarks.yaml")
