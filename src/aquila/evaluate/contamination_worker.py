"""Stretches of a corpus looked up, by this process or several.

Run as `python -m aquila.evaluate.contamination_worker`. The first line of standard input says what to look for, each
further one names a stretch and is answered with one. It ends when its input does: with the program that started it.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from aquila.errors import AquilaError, ConfigError, DataError
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
    results: list[Result | None] = [None] * len(stretches)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(stretches)):
        waiting.put(number)
    lock, done = threading.Lock(), 0

    def drive(process: subprocess.Popen[str]) -> None:
        nonlocal done
        with suppress(BrokenPipeError):  # `_ask` says why it ended
            _send(process, first)
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            results[number] = (stretches[number], *_ask(process, stretches[number]))
            with lock:
                done += 1
                progress(done, len(stretches))

    with tempfile.TemporaryDirectory(prefix="aquila-contamination-") as folder:
        if task.tokenizer is not None:
            task.tokenizer.save(Path(folder))
        first = {
            "parts": [astuple(part) for part in task.parts],
            "text_key": task.text_key,
            "tokenizer": folder if task.tokenizer is not None else None,
        }
        processes: list[subprocess.Popen[str]] = []
        with ThreadPoolExecutor(workers) as threads:
            try:
                for _ in range(workers):
                    processes.append(_start_process())
                futures = [threads.submit(drive, process) for process in processes]
                ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
                failures = [failure for future in ended if (failure := future.exception())]
            finally:  # on an error or Ctrl-C, threads see their process end and end too
                for process in processes:
                    process.kill()
                    process.wait()
    for process in processes:
        _close(process)
    if failures:
        raise failures[0]
    return [result for result in results if result is not None]


def _start_process() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "aquila.evaluate.contamination_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogatepass",
        start_new_session=True,  # Ctrl-C is for us; we end it
    )


def _close(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(BrokenPipeError):
            pipe.close()


def _send(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def _ask(process: subprocess.Popen[str], stretch: Stretch) -> tuple[Counts, dict[int, Found]]:
    assert process.stdout is not None
    try:
        _send(process, stretch.to_json())
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        raise DataError(
            f"a worker process ended while it read {stretch.paths[0]} (exit code {process.wait()}; killed, or out of "
            "memory?); --workers 1 needs the least memory"
        )
    answer = json.loads(line)
    if "error" in answer:
        raise (ConfigError if answer["usage"] else DataError)(answer["error"])
    found = {int(part): _found(record) for part, record in answer["found"].items()}
    return Counts(**answer["counts"]), found


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
