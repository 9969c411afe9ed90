"""What the judges of compiled languages and JavaScript share.

Sample and tests share a process there, so the process has to say that the tests came to their end. It says so with a
nonce: our own `main` takes it from stdin before anything of the sample runs, keeps it to itself, runs the tests and
writes it as its last act. A sample that ends the process, in whatever way, ends it without.
"""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Protocol, runtime_checkable

from aquila.evaluate.judge.python import explain_end
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.tasks import Task
from aquila.evaluate.verdict import Status, Verdict, one_line
from aquila.sandbox.box import Sandbox
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.job import Job, Limits, Outcome, Step
from aquila.sandbox.toolchains import Toolchain, binds_of, find_toolchain

CODES: Mapping[int, Status] = {
    3: "wrong",
    4: "exception",
    5: "compile_error",
    6: "wrong",
    7: "wrong",
    8: "memory",
}  # of our mains


class BuildError(Exception):
    """The sample could not be built."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status: Status = status
        self.detail = detail


_NOT_LINKED = 127  # of the dynamic linker: the sample lacks the function


@dataclass(frozen=True)
class Plan:
    """How a sample is built and run: files of the job, build steps, and the program that reads the nonce."""

    run: list[str]
    builds: list[Step] = field(default_factory=list)
    files: Mapping[str, str | bytes] = field(default_factory=dict)


@runtime_checkable
class Language(Protocol):
    """What differs from language to language.

    Attributes:
        name: as toolchains know it.
        limits: of running, where `Rules` say nothing.
        disk_bytes: for sources, what is built, and what the sample writes.
        out_of_memory: what stands on stderr when memory was refused.
    """

    @property
    def name(self) -> str: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def disk_bytes(self) -> int: ...

    @property
    def out_of_memory(self) -> tuple[bytes, ...]: ...

    def prepare(self, isolation: Isolation, tools: Toolchain) -> dict[str, Path]:
        """Makes what serves all samples; folders that their sandbox shall see."""
        ...

    def plan(self, sandbox: Sandbox, tools: Toolchain, task: Task, program: str) -> Plan:
        """How to run a program.

        Raises:
            BuildError: it cannot be built.
        """
        ...

    def close(self) -> None: ...


class MarkedJudge:
    """Judges by nonce."""

    def __init__(self, language: Language, isolation: Isolation, rules: Rules) -> None:
        self._language = language
        self._tools = find_toolchain(language.name)
        self._rules = rules
        try:
            binds = language.prepare(isolation, self._tools)
            self._sandbox = Sandbox(isolation, binds=binds_of([self._tools]) | binds)
        except BaseException:
            language.close()
            raise

    def close(self) -> None:
        self._language.close()
        self._sandbox.close()

    def judge(self, task: Task, program: str) -> Verdict:
        """See `Judge.judge`."""
        started = time.monotonic()
        try:
            plan = self._language.plan(self._sandbox, self._tools, task, program)
        except BuildError as error:
            return Verdict(error.status, error.detail, time.monotonic() - started)
        nonce = secrets.token_hex(16).encode() + b"\n"
        step = Step(plan.run, self._language.limits.within(self._rules.seconds), stdin=nonce)
        outcomes = self._sandbox.run(Job([*plan.builds, step], plan.files, disk_bytes=self._language.disk_bytes))
        built = len(outcomes) > len(plan.builds)
        status, detail = self._read_run(outcomes[-1], nonce) if built else read_build(outcomes[-1])
        return Verdict(status, detail, time.monotonic() - started, outcomes[-1].peak_bytes)

    def _read_run(self, outcome: Outcome, nonce: bytes) -> tuple[Status, str]:
        if outcome.ok:
            if outcome.stdout.endswith(nonce):
                return "passed", ""
            return "violation", "it ended as if all were well before the tests were through"
        last = telling_line(outcome.stderr)
        if outcome.code == _NOT_LINKED and b"undefined symbol" in outcome.stderr:
            return "compile_error", last
        if outcome.status != "exited":
            return explain_end(outcome)
        if any(mark in outcome.stderr for mark in self._language.out_of_memory):
            return "memory", last
        if outcome.code in CODES:
            return CODES[outcome.code], last
        return explain_end(outcome)


def read_build(outcome: Outcome) -> tuple[Status, str]:
    """Why a sample could not be built."""
    if outcome.status == "exited":
        return "compile_error", telling_line(outcome.stdout + outcome.stderr, first_with=b"error")
    status, detail = explain_end(outcome)
    return status, f"while it was compiled{': ' if detail else ''}{detail}"


def telling_line(text: bytes, first_with: bytes | None = None) -> str:
    """The first line with a mark; the last one where there is none."""
    lines = [line for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if first_with is not None and first_with in line]
    return one_line((marked[:1] or lines[-1:] or [b""])[0].decode(errors="replace"))


def support_file(path: str) -> str:
    """Source of ours that goes along with samples."""
    return (files("aquila.evaluate.judge") / "support" / path).read_text(encoding="utf-8")
