"""Stretches of a corpus looked up, by this process or several.

Run as `python -m aquila.evaluate.contamination_worker`. The first line of standard input says what to look for, each
further one names a stretch and is answered with one. It ends when its input does: with the program that started it.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from aquila.data.processes import Question, ask_processes
from aquila.errors import AquilaError, ConfigError
from aquila.evaluate.corpus import Counts, Stretch, read_stretch
from aquila.evaluate.overlap import Found, Index, Part
from aquila.tokenizer.load import load_tokenizer
from aquila.tokenizer.tokenizer import Tokenizer

Result = tuple[Stretch, Counts, dict[int, Found]]


@dataclass(frozen=True)
class Task:
    """What to look for and how to read; `tokenizer` is for shards."""

    parts: Sequence[Part]
    text_key: str | None
    tokenizer: Tokenizer | None


def search_all(
    task: Task,
    index: Index,
    stretches: Sequence[Stretch],
    *,
    workers: int,
    progress: Callable[[int, int], None],
) -> Iterator[Result]:
    """What each stretch holds, in their order, whoever has looked."""
    progress(0, len(stretches))
    if workers > 1 and len(stretches) > 1:
        yield from _search_with_processes(task, stretches, min(workers, len(stretches)), progress)
        return
    for done, stretch in enumerate(stretches, 1):
        yield (stretch, *search_stretch(task, index, stretch))
        progress(done, len(stretches))


def search_stretch(task: Task, index: Index, stretch: Stretch) -> tuple[Counts, dict[int, Found]]:
    """Examples name the number of the record in the stretch."""
    counts, numbers, found = Counts(), list[int](), dict[int, Found]()
    documents = read_stretch(stretch, counts, numbers, text_key=task.text_key, tokenizer=task.tokenizer)
    index.search(documents, found)
    for each in found.values():
        each.examples = sorted((numbers[document], text) for document, text in each.examples)
    return counts, found


def _search_with_processes(
    task: Task, stretches: Sequence[Stretch], workers: int, progress: Callable[[int, int], None]
) -> list[Result]:
    results: dict[int, Result] = {}

    def take(number: int, answer: dict[str, Any]) -> None:
        found = {int(part): _found(record) for part, record in answer["found"].items()}
        results[number] = (stretches[number], Counts(**answer["counts"]), found)
        progress(len(results), len(stretches))

    with tempfile.TemporaryDirectory(prefix="aquila-contamination-") as folder:
        if task.tokenizer is not None:
            task.tokenizer.save(Path(folder))
        first = {
            "parts": [astuple(part) for part in task.parts],
            "text_key": task.text_key,
            "tokenizer": folder if task.tokenizer is not None else None,
        }
        ask_processes(
            ["-m", "aquila.evaluate.contamination_worker"],
            [Question(json.dumps(stretch.to_json()) + "\n", str(stretch.paths[0])) for stretch in stretches],
            workers,
            take,
            greeting=json.dumps(first) + "\n",
        )
    return [results[number] for number in range(len(stretches))]


def _found(record: dict[str, Any]) -> Found:
    examples = [(number, text) for number, text in record["examples"]]
    return Found(set(record["words"]), set(record["characters"]), record["longest"], examples)


def _found_json(found: Found) -> dict[str, Any]:
    return {**asdict(found), "words": sorted(found.words), "characters": sorted(found.characters)}


def main() -> None:
    line = sys.stdin.readline()
    if not line:  # whoever started us was stopped before there was work
        return
    first = json.loads(line)
    tokenizer = load_tokenizer(Path(first["tokenizer"])) if first["tokenizer"] else None
    task = Task([Part(*part) for part in first["parts"]], first["text_key"], tokenizer)
    index = Index(task.parts)
    for line in sys.stdin:
        stretch = Stretch.from_json(json.loads(line))
        try:
            counts, found = search_stretch(task, index, stretch)
            answer = {
                "counts": asdict(counts),
                "found": {str(part): _found_json(each) for part, each in found.items()},
            }
        except AquilaError as error:
            answer = {"error": str(error), "usage": isinstance(error, ConfigError)}
        except OSError as error:
            answer = {"error": f"{error.filename or stretch.paths[0]}: {error.strerror or error}", "usage": False}
        try:
            print(json.dumps(answer), flush=True)  # noqa: T201  the protocol
        except BrokenPipeError:  # whoever started us was killed
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it ends
            return


if __name__ == "__main__":
    main()
