"""One side of a bench is one process that loads once and then answers JSON lines: only one side computes at a time.

Stdlib only: the child half (`serve`) also runs under a peer's interpreter.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[1]
SETTLE_SECONDS = 0.25  # threads of the side that ran before sleep by now: those of Intel's OpenMP spin for 0.2 s
SHOWN_CHARACTERS = 600  # of what a side that ended said on stderr


class SideError(Exception):
    """A side could not be started, or ended, or refused; the message says which and why."""


class Worker:
    """Starts `module` of a package here under `python` and asks it things.

    Args:
        name: what the table calls this side.
        python: its interpreter.
        module: module of `package` to run.
        settings: sent first, to be loaded; `threads` among them.
        environment: variables to set.
        prefix: command that the interpreter is put behind, such as one that enters a memory cgroup.
        package: folder of bench/ that the module is in.
    """

    def __init__(
        self,
        name: str,
        python: str,
        module: str,
        settings: dict[str, Any],
        environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
        *,
        package: str = "side_by_side",
    ) -> None:
        self.name = name
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  lives as long
        self._process = subprocess.Popen(
            [*prefix, python, "-m", f"{package}.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            cwd=BENCH,
            env=os.environ | (environment or {}),
        )
        try:
            self.facts = self.ask(settings)  # what the side says about itself: versions, engine
        except SideError:
            self.close()
            raise

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Sends one question and waits for its answer. `SideError` when there is none."""
        time.sleep(SETTLE_SECONDS)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            self._stderr.seek(0)
            said = self._stderr.read()[-SHOWN_CHARACTERS:].strip()
            raise SideError(f"{self.name} ended with code {code}: {said or 'it said nothing'}")
        answer = json.loads(line)
        if "error" in answer:
            raise SideError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):  # it ended first, which is what closing is for
                self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stderr.close()


Answer = Callable[[dict[str, Any]], dict[str, Any]]


def serve(load: Callable[[dict[str, Any]], tuple[dict[str, Any], Answer]]) -> None:
    """The child's half: `load(settings)` gives facts and the function that answers each question.

    Every answer also tells `others`: cores that other processes kept busy meanwhile.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not stand among the answers
    answer: Answer | None = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if answer is None:
                _pin(question["threads"])
                reply, answer = load(question)
            else:
                reply = _with_load(answer, question)
        except Exception as error:  # noqa: BLE001  whatever a library raises, the parent reports it
            reply = {"error": f"{type(error).__name__}: {error}"}
        channel.write(json.dumps(reply) + "\n")
        channel.flush()


def _pin(threads: int) -> None:
    """Leaves this process as many cores as threads, so that a side that counts cores obeys as well."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _with_load(answer: Answer, question: dict[str, Any]) -> dict[str, Any]:
    started, own, busy = time.perf_counter(), sum(os.times()[:2]), _busy_seconds()
    reply = answer(question)
    own = sum(os.times()[:2]) - own
    reply["others"] = max(0.0, _busy_seconds() - busy - own) / (time.perf_counter() - started)
    return reply


def _busy_seconds() -> float:
    """CPU seconds that all processes of the machine have used; 0 where there is no /proc."""
    try:
        text = Path("/proc/stat").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, text.splitlines()[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
