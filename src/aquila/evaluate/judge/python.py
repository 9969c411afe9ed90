"""Python judged over a pipe: the tests run here and call the sample, which runs in the sandbox and sees only calls.

Tests, expected values and the verdict are never in the sample's process. Its answers come back as plain data and are
made into builtins here, so an answer is what it is and cannot say what it equals.
"""

import io
import json
import random
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any

from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.tasks import Task
from aquila.evaluate.verdict import Status, Verdict, one_line
from aquila.sandbox.box import Sandbox
from aquila.sandbox.inside import values
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.job import MIB, Job, Limits, Outcome, PythonStep
from aquila.sandbox.running import CallTimeoutError, OutputLimitError, Running

_SAMPLE_DISK, _SAMPLE_INODES = 32 * MIB, 1024
_SIGNALS: dict[int, tuple[Status, str]] = {
    -signal.SIGXCPU: ("timeout", "its processor time was up"),
    -signal.SIGXFSZ: ("output_limit", "it wrote a file beyond the limit"),
    -signal.SIGSYS: ("violation", "it made a system call of another machine"),
}


class _StopError(BaseException):
    """Ends the tests: the sample has failed already. No `except Exception` of a test may catch it."""


class _TimeUpError(BaseException):
    """The tests have run for too long."""


class _Candidate:
    """The function under test, as the tests see it."""

    def __init__(self, running: Running, rules: Rules) -> None:
        self._running = running
        self._rules = rules
        self._loaded = False
        self.failure: tuple[Status, str] | None = None
        self.ended = False  # the process is gone; how it ended says the rest

    def __call__(self, *arguments: object, **keywords: object) -> Any:
        if self.failure is None and not self._loaded:
            self._loaded = True
            self._ask(b"")
        return self._ask(values.to_json((list(arguments), keywords)).encode() + b"\n")

    def _ask(self, line: bytes) -> Any:
        if self.failure is not None:
            raise _StopError
        try:
            reply = json.loads(self._running.ask(line, self._rules.call_seconds, self._rules.answer_bytes))
            return self._take(reply)
        except CallTimeoutError:
            self._fail("timeout", f"one call took more than {self._rules.call_seconds:g} s")
        except OutputLimitError:
            self._fail("output_limit", "it wrote more than the limit")
        except EOFError:
            self.ended = True
            self._fail("exception", "its process ended before it answered")
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError):
            self._fail("violation", "its answer is not in the protocol")

    def _take(self, reply: dict[str, Any]) -> Any:
        if reply.keys() == {"ok"}:
            return values.decode(reply["ok"])
        if reply == {"ready": True}:
            return None
        if "odd" in reply:
            self._fail("wrong", f"it answered {reply['odd']}")
        name, text = str(reply.get("err", reply.get("load"))), str(reply["text"])
        if "load" in reply and name in ("SyntaxError", "IndentationError", "TabError"):
            self._fail("compile_error", f"{name}: {text}")
        self._fail("memory" if name == "MemoryError" else "exception", f"{name}: {text}" if text else name)
        raise AssertionError("unreachable")

    def _fail(self, status: Status, detail: str) -> None:
        self.failure = status, one_line(detail)
        raise _StopError


class PythonJudge:
    """Only for the main thread of a process of its own: it keeps time by SIGALRM."""

    def __init__(self, isolation: Isolation, rules: Rules) -> None:
        self.walls = isolation.mode
        self._sandbox = Sandbox(isolation)
        self._rules = rules

    def close(self) -> None:
        self._sandbox.close()

    def judge(self, task: Task, program: str) -> Verdict:
        return _judge(self._sandbox, task, program, self._rules)


def _judge(sandbox: Sandbox, task: Task, program: str, rules: Rules) -> Verdict:
    limits = Limits(wall_seconds=rules.seconds + 1, memory_bytes=rules.memory_bytes, max_processes=16, file_bytes=MIB)
    started = time.monotonic()
    running = sandbox.start(
        Job([PythonStep(program, task.entry_point, limits)], disk_bytes=_SAMPLE_DISK, max_inodes=_SAMPLE_INODES)
    )
    candidate = _Candidate(running, rules)
    try:
        with _alarm(rules.seconds):
            status, detail = _run_tests(task, candidate)
    except _TimeUpError:
        status, detail = "timeout", f"the tests took more than {rules.seconds:g} s"
    finally:
        if not candidate.ended:
            running.cancel()
        (outcome,) = running.finish()
    if candidate.ended or outcome.status == "disk":
        status, detail = explain_end(outcome)
    return Verdict(status, detail, time.monotonic() - started, outcome.peak_bytes)


def explain_end(outcome: Outcome) -> tuple[Status, str]:
    """Why a process ended that had not answered yet."""
    if outcome.status in ("timeout", "memory"):
        return outcome.status, "its processes together went past the limit" if outcome.status == "memory" else ""
    if outcome.status in ("output_limit", "disk"):
        return "output_limit", "it wrote more than the limit"
    if outcome.status == "tampered":
        return "violation", "it broke the process that watches it"
    if outcome.code == 0:
        return "violation", "it ended as if all were well before it had answered"
    last = outcome.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    how = f"ended with code {outcome.code}" if outcome.code > 0 else f"was killed by signal {-outcome.code}"
    return _SIGNALS.get(outcome.code, ("exception", one_line(f"it {how}{': ' if last else ''}{last}")))


def _run_tests(task: Task, candidate: _Candidate) -> tuple[Status, str]:
    prompt, test = _compile(task.prompt, f"{task.task_id} prompt"), _compile(_complete(task), f"{task.task_id} test")
    names: dict[str, Any] = {"__name__": "test"}
    random.seed(0)
    try:
        exec(prompt, names)  # tests use helper functions of prompts
        names[task.entry_point] = names["candidate"] = candidate
        with _quiet():
            exec(test, names)
    except _StopError:
        pass
    except AssertionError as error:
        return candidate.failure or ("wrong", one_line(str(error)))
    except OSError:  # the sandbox's, not the sample's
        raise
    except Exception as error:  # noqa: BLE001  the tests could not make sense of the answer
        return candidate.failure or ("wrong", one_line(f"the tests met {type(error).__name__}: {error}"))
    return candidate.failure or ("passed", "")


def _complete(task: Task) -> str:
    """HumanEval's tests define `check` and leave calling it to the harness; those of HumanEval-X call it."""
    return task.test if task.declaration else f"{task.test}\ncheck(candidate)\n"


@lru_cache(maxsize=1024)
def _compile(source: str, name: str) -> CodeType:
    return compile(source, name, "exec")


@contextmanager
def _quiet() -> Generator[None]:
    """Tests that print do so for nobody."""
    stdout = sys.stdout
    sys.stdout = io.StringIO()
    try:
        yield
    finally:
        sys.stdout = stdout


@contextmanager
def _alarm(seconds: float) -> Generator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise _TimeUpError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
