"""The rules of the harnesses that were published with the benchmarks, for comparison.

Sample and tests are one program, and the verdict is what that program says of itself: an exit code, or a list in its
own process. A sample can therefore call itself passed; `trusted` judging is what a score should rest on. What differs
from the originals: the program runs in the sandbox. Sources: openai/human-eval execution.py; THUDM/CodeGeeX
codegeex/benchmark/execution.py.
"""

import json
import re
import time

from aquila.errors import ConfigError
from aquila.evaluate.judge.python import explain_end
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.tasks import Task
from aquila.evaluate.verdict import Status, Verdict, one_line
from aquila.sandbox.box import Sandbox
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.job import Job, Limits, Outcome, PythonStep

SECONDS = {"humaneval": 3.0, "humaneval-x": 5.0}  # of the originals
_IMPORTS = """
import math
import re
import sys
import copy
import datetime
import itertools
import collections
import heapq
import statistics
import functools
import hashlib
import string
from typing import *
from collections import *
"""  # of HumanEval-X but for numpy, which no task uses


class OfficialJudge:
    def __init__(self, language: str, isolation: Isolation, rules: Rules) -> None:
        if language != "python":
            raise ConfigError(
                f"the official rule is there for python, not for {language}; judge without --judge official"
            )
        self._sandbox = Sandbox(isolation)
        self._rules = rules

    def close(self) -> None:
        self._sandbox.close()

    def judge(self, task: Task, program: str) -> Verdict:
        limits = Limits(wall_seconds=self._rules.seconds, memory_bytes=self._rules.memory_bytes)
        started = time.monotonic()
        (outcome,) = self._sandbox.run(Job([PythonStep(official_program(task, program), None, limits)]))
        status, detail = _read(outcome)
        return Verdict(status, detail, time.monotonic() - started, outcome.peak_bytes)


def official_program(task: Task, program: str) -> str:
    """The text that the original harness executes."""
    if not task.declaration:
        return f"{program}\n{task.test}\ncheck({task.entry_point})"
    if program.startswith(task.prompt):
        program = task.prompt + _first_block(program[len(task.prompt) :])
    return f"{_IMPORTS}{program}\n{task.test}"


def _first_block(code: str) -> str:
    """Up to the first line that is not indented."""
    lines = code.split("\n")
    end = next((n for n, line in enumerate(lines) if line and not re.match(r"[ \t]", line)), len(lines))
    return "\n".join(lines[:end])


def _read(outcome: Outcome) -> tuple[Status, str]:
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
