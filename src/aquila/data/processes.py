"""Questions answered by several processes, a line of JSON each way.

A process ends when its input does, so with whoever started it, however that ended.
"""

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aquila.errors import ConfigError, DataError


@dataclass(frozen=True)
class Question:
    """A line that one of the processes answers; `about` says to people what it reads."""

    line: str
    about: str


def ask_processes(
    arguments: Sequence[str],
    questions: Sequence[Question],
    workers: int,
    on_answer: Callable[[int, dict[str, Any]], None],
    *,
    greeting: str = "",
    hint: str = "",
) -> None:
    """Has `python -P ARGUMENTS` answer the questions in `workers` processes; each is driven by a thread.

    Args:
        arguments: of Python.
        questions: in the order in which they are begun.
        workers: processes.
        on_answer: gets a question's number and its answer, one call at a time, in the order of the answers.
        greeting: what each process reads first.
        hint: what else there is to do when a process was killed, with a comma at its end.

    Raises:
        DataError: a process could not answer, or ended.
        ConfigError: the same, where its answer says that it was asked wrongly.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(questions)):
        waiting.put(number)
    lock = threading.Lock()

    def drive(process: subprocess.Popen[str]) -> None:
        with suppress(BrokenPipeError):  # `_ask` says why it ended
            _send(process, greeting)
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            answer = _ask(process, questions[number], hint)
            with lock:
                on_answer(number, answer)

    processes: list[subprocess.Popen[str]] = []
    with ThreadPoolExecutor(workers) as threads:
        try:
            for _ in range(workers):
                processes.append(_start(arguments))
            futures = [threads.submit(drive, process) for process in processes]
            ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failures = [failure for future in ended if (failure := future.exception())]  # before we end the others
        finally:  # on an error or Ctrl-C, threads see their process end and end too
            for process in processes:
                process.kill()
                process.wait()
    for process in processes:
        _close(process)
    if failures:
        raise failures[0]


def _start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", *arguments],  # -P: not what lies in the current folder
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogatepass",
        start_new_session=True,  # Ctrl-C is for us; we end it
    )


def _close(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(BrokenPipeError):  # what the process did not live to read
            pipe.close()


def _send(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def _ask(process: subprocess.Popen[str], question: Question, hint: str) -> dict[str, Any]:
    assert process.stdout is not None
    try:
        _send(process, question.line)
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        raise DataError(
            f"a worker process ended while it read {question.about} (exit code {process.wait()}; killed, or out of "
            f"memory?); {hint}--workers 1 needs the least memory"
        )
    answer = json.loads(line)
    if "error" in answer:
        raise (ConfigError if answer["usage"] else DataError)(answer["error"])
    return answer
