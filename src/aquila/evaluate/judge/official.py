"""The rules of the harnesses that were published with the benchmarks, for comparison.

Sample and tests are one program, and the verdict is what that program says of itself: an exit code, its silence, or a
list in its own process. A sample can therefore call itself passed; `trusted` judging is what a score should rest on.
What differs from the originals: the program runs in the sandbox. Sources: official_programs.py, official_ways.py.
"""

import json
import time

from aquila.errors import ConfigError
from aquila.evaluate.judge.marked import read_build, telling_line
from aquila.evaluate.judge.official_programs import official_program
from aquila.evaluate.judge.official_ways import WAYS
from aquila.evaluate.judge.python import explain_end
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.tasks import Task
from aquila.evaluate.verdict import Status, Verdict, one_line
from aquila.sandbox.box import Sandbox
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.job import Job, Limits, Outcome, PythonStep
from aquila.sandbox.toolchains import binds_of, find_toolchain

SECONDS = {"humaneval": 3.0, "humaneval-x": 5.0}  # of the originals
_GRACE_SECONDS = 1.0  # that building and running together may take beyond the timeout


class OfficialPythonJudge:
    """For HumanEval and Python's part of HumanEval-X: the program runs in an interpreter that is up already."""

    def __init__(self, isolation: Isolation, rules: Rules) -> None:
        self._sandbox = Sandbox(isolation)
        self._rules = rules

    def close(self) -> None:
        self._sandbox.close()

    def judge(self, task: Task, program: str) -> Verdict:
        """See `Judge.judge`."""
        limits = Limits(wall_seconds=self._rules.seconds, memory_bytes=self._rules.memory_bytes)
        started = time.monotonic()
        (outcome,) = self._sandbox.run(Job([PythonStep(official_program(task, program), None, limits)]))
        status, detail = _read_answer(outcome)
        return Verdict(status, detail, time.monotonic() - started, outcome.peak_bytes)


class OfficialJudge:
    """For the other languages of HumanEval-X.

    Raises:
        ConfigError: the original has no rule for the language.
    """

    def __init__(self, language: str, isolation: Isolation, rules: Rules) -> None:
        if language not in WAYS:
            raise ConfigError(
                f"there is no official rule for {language}, only for python, {', '.join(sorted(WAYS))}; "
                "judge without --judge official"
            )
        self._way = WAYS[language]
        self._tools = find_toolchain(language)
        self._rules = rules
        binds = self._way.prepare(isolation, self._tools)
        self._sandbox = Sandbox(isolation, binds=binds_of([self._tools]) | binds)

    def close(self) -> None:
        self._sandbox.close()

    def judge(self, task: Task, program: str) -> Verdict:
        """See `Judge.judge`."""
        started = time.monotonic()
        text = official_program(task, program)
        job = self._way.job(self._sandbox, self._tools, task, text, self._rules.seconds)
        outcomes = self._sandbox.run(job)
        status, detail = self._read(outcomes, built=len(outcomes) == len(job.steps))
        return Verdict(status, detail, time.monotonic() - started, outcomes[-1].peak_bytes)

    def _read(self, outcomes: list[Outcome], *, built: bool) -> tuple[Status, str]:
        last, seconds = outcomes[-1], self._rules.seconds + _GRACE_SECONDS
        if sum(each.seconds for each in outcomes) > seconds:
            return "timeout", f"building and running took more than {seconds:g} s"
        if not built:
            return read_build(last)
        said, way = last.stdout + last.stderr, self._way
        if last.status != "exited":
            return explain_end(last)
        if not said if way.silent else last.code == 0:
            return "passed", ""
        if way.not_built is not None and way.not_built in said:
            return "compile_error", telling_line(said, first_with=way.not_built if way.silent else b"main_test.go:")
        if way.wrong in said:
            return "wrong", telling_line(said, first_with=way.wrong)
        if any(mark in said for mark in way.language.out_of_memory):
            return "memory", telling_line(said)
        if last.code == 0:
            return "wrong", f"it wrote something: {telling_line(said)}"
        return explain_end(last)


def _read_answer(outcome: Outcome) -> tuple[Status, str]:
    replies = outcome.stdout.splitlines()
    if outcome.status == "exited" and replies:
        try:
            reply = json.loads(replies[-1])
            if "ok" in reply:
                return "passed", ""
            name, text = str(reply["err"]), str(reply["text"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return "violation", "its answer is not in the protocol"
        return "wrong" if name == "AssertionError" else "exception", one_line(f"{name}: {text}")
    return explain_end(outcome)
