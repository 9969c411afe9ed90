"""Many samples over several judging processes. Equal programs are judged once."""

import hashlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquila import errors
from aquila.errors import AquilaError, EvaluationError
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.samples_file import Sample
from aquila.evaluate.tasks import Benchmark
from aquila.evaluate.verdict import Verdict
from aquila.machine import read_cpu
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.toolchains import MissingToolchainError

_SOURCE_ROOT = Path(__file__).parents[3]
_PATIENCE_SECONDS = 300.0  # beyond a sample's own time: building, and waiting for a busy machine


@dataclass(frozen=True)
class Program:
    """What is judged: a whole program for a task."""

    task_id: str
    text: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.task_id}\0{self.text}".encode("utf-8", "surrogatepass")).hexdigest()


def assemble(benchmark: Benchmark, sample: Sample) -> Program:
    """The program of a sample: itself, or what goes on from the task's prompt."""
    prompt = "" if sample.whole else benchmark.tasks[sample.task_id].prompt
    return Program(sample.task_id, prompt + sample.text)


def judge_programs(
    benchmark: Benchmark,
    programs: Sequence[Program],
    isolation: Isolation,
    rules: Rules,
    *,
    num_workers: int | None = None,
    on_verdict: Callable[[Program, Verdict], None] | None = None,
) -> dict[str, Verdict]:
    """Verdicts by a program's digest. `on_verdict` hears of each different program as it is judged, in any order.

    Raises:
        MissingToolchainError: the language's tools are not here.
        SandboxError: no judge starts.
    """
    waiting = deque({program.digest: program for program in programs}.values())
    num_workers = min(num_workers or default_workers(benchmark.language), len(waiting))
    verdicts: dict[str, Verdict] = {}
    with Pool(benchmark, isolation, rules, num_workers) as pool:
        for program, verdict in pool.judge(waiting):
            verdicts[program.digest] = verdict
            if on_verdict:
                on_verdict(program, verdict)
    return verdicts


def default_workers(language: str) -> int:
    """One a core; two where judge and sample take turns, so that one of each pair is waiting."""
    cores = read_cpu().num_usable_threads
    return 2 * cores if language == "python" else cores


class _Worker:
    """A judging process, and the program that it has in hand."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.program: Program | None = None
        self.deadline = 0.0
        self.ready = False
        path = os.pathsep.join([str(_SOURCE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aquila.evaluate.judge.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for us; we end it
        )
        self._send(order)

    def give(self, program: Program, seconds: float) -> None:
        self.program = program
        self.deadline = time.monotonic() + seconds
        self._send({"task_id": program.task_id, "program": program.text})

    def read(self) -> dict[str, Any] | None:
        """Its next message, or None where it has ended."""
        assert self.process.stdout is not None, "a pipe was asked for"
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def end(self) -> None:
        """Its stdin is closed, it closes its sandbox; a judge that does not is killed, and its sandbox goes with it."""
        assert self.process.stdin is not None, "a pipe was asked for"
        assert self.process.stdout is not None, "a pipe was asked for"
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(0 if self.program else 5)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its end closes the sandbox, which ends the job
            self.process.wait()
        self.process.stdout.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None, "a pipe was asked for"
        with suppress(BrokenPipeError):  # what it has to say about that is read next
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()


class Pool:
    """Judging processes, which stay for as long as it is open."""

    def __init__(self, benchmark: Benchmark, isolation: Isolation, rules: Rules, num_workers: int) -> None:
        self._seconds = rules.seconds + _PATIENCE_SECONDS
        self._order = {
            "bench": benchmark.name,
            "data": str(benchmark.path),
            "language": benchmark.language,
            "isolation": {
                "mode": isolation.mode,
                "bwrap": isolation.bwrap and str(isolation.bwrap),
                "landlock_abi": isolation.landlock_abi,
                "stage": isolation.stage,
            },
            "rules": rules.to_json(),
        }
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._num_workers = num_workers
        self._tried: set[str] = set()  # programs that a judge has died over once

    def __enter__(self) -> "Pool":
        for _ in range(self._num_workers):
            self._add()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()
        self._selector.close()

    @property
    def busy(self) -> bool:
        """Whether a program is being judged."""
        return any(worker.program for worker in self._workers)

    def judge(self, waiting: deque[Program]) -> Iterator[tuple[Program, Verdict]]:
        """Every program's verdict as it comes. A judge that dies over a program gets one successor to try it again."""
        while waiting or self.busy:
            yield from self.poll(waiting, 1.0)

    def poll(self, waiting: deque[Program], seconds: float) -> Iterator[tuple[Program, Verdict]]:
        """Hands out programs and gives the verdicts that come within a while."""
        for worker in self._workers:
            if waiting and worker.ready and worker.program is None:
                worker.give(waiting.popleft(), self._seconds)
        for key, _ in self._selector.select(timeout=seconds):
            worker: _Worker = key.data
            message = worker.read()
            program = worker.program
            if message is None:
                yield from self._replace(worker, waiting)
                continue
            if "failed" in message:
                raise _error_of(message)
            worker.ready = True
            worker.program = None
            if program is not None:
                yield program, Verdict(**message)
            if waiting:
                worker.give(waiting.popleft(), self._seconds)
        yield from self._end_overdue()

    def _end_overdue(self) -> Iterator[tuple[Program, Verdict]]:
        for worker in [each for each in self._workers if each.program and time.monotonic() > each.deadline]:
            assert worker.program is not None, "chosen by it"
            yield worker.program, Verdict("timeout", "the tests did not come to an end with its answers")
            self._remove(worker)
            self._add()

    def _replace(self, worker: _Worker, waiting: deque[Program]) -> Iterator[tuple[Program, Verdict]]:
        program = worker.program
        if program is None and not worker.ready:
            raise EvaluationError("a judging process ended while it started; its messages are above")
        if program is not None and program.digest in self._tried:
            yield program, Verdict("harness_error", "the judging process died twice over this sample")
        elif program is not None:
            self._tried.add(program.digest)
            waiting.appendleft(program)
        self._remove(worker)
        self._add()

    def _add(self) -> None:
        worker = _Worker(self._order)
        self._workers.append(worker)
        assert worker.process.stdout is not None, "a pipe was asked for"
        self._selector.register(worker.process.stdout, selectors.EVENT_READ, worker)

    def _remove(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None, "a pipe was asked for"
        self._selector.unregister(worker.process.stdout)
        self._workers.remove(worker)
        worker.end()


def _error_of(message: dict[str, str]) -> AquilaError:
    kinds = {"MissingToolchainError": MissingToolchainError}
    kind = kinds.get(message["failed"]) or getattr(errors, message["failed"], EvaluationError)
    return kind(message["text"])
