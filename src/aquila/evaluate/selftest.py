"""Whether the judge itself can be trusted here: reference solutions must pass, stubs must not."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aquila.evaluate.judge.pool import Program, judge_programs
from aquila.evaluate.judge.rules import Rule, Rules
from aquila.evaluate.tasks import Benchmark, Task, known_issues, reference_solution
from aquila.evaluate.verdict import Verdict
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.toolchains import MissingToolchainError

# What a model would write that gives up. They build in every task, and answer nothing.
_STUBS = {
    "python": "    return None\n",
    "cpp": "    throw 1;\n}\n",
    "java": "        throw new IllegalStateException();\n    }\n}\n",
    "js": "  return undefined\n}\n",
    "go": '    panic("nothing")\n}\n',
    "rust": '    panic!("nothing")\n}\n',
}


@dataclass(frozen=True)
class Result:
    """A language's self-test.

    Attributes:
        passed: tasks whose reference solution passed and whose stub did not.
        failures: what went wrong, a line a task.
        skipped: why it was not run; None where it was.
    """

    passed: int
    failures: tuple[str, ...]
    skipped: str | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "failed": len(self.failures),
            "skipped": self.skipped,
            "seconds": round(self.seconds, 2),
        }


def choose_tasks(benchmark: Benchmark, count: int | None) -> list[Task]:
    """`count` tasks evenly through the benchmark; all where it is None."""
    tasks = list(benchmark.tasks.values())
    if count is None or count >= len(tasks):
        return tasks
    return [tasks[index * len(tasks) // count] for index in range(count)]


def self_test(
    benchmark: Benchmark,
    isolation: Isolation,
    *,
    rule: Rule = "trusted",
    num_tasks: int | None = None,
    num_workers: int | None = None,
    on_verdict: Callable[[Program, Verdict], None] | None = None,
) -> Result:
    """Judges references and stubs of a benchmark. A missing toolchain is a reason to skip, never a failure.

    Under the official rule the references are the solutions as published, the broken ones too.
    """
    started = time.monotonic()
    tasks = choose_tasks(benchmark, num_tasks)
    solutions = {task: task.canonical_solution if rule == "official" else reference_solution(task) for task in tasks}
    references = {task.task_id: Program(task.task_id, task.prompt + text) for task, text in solutions.items()}
    stubs = {task.task_id: Program(task.task_id, task.prompt + _STUBS[benchmark.language]) for task in tasks}
    rules = Rules(rule, seconds=30.0, call_seconds=15.0)  # a busy machine is no broken one
    try:
        found = judge_programs(
            benchmark,
            [*references.values(), *stubs.values()],
            isolation,
            rules,
            num_workers=num_workers,
            on_verdict=on_verdict,
        )
    except MissingToolchainError as error:
        return Result(0, (), str(error), time.monotonic() - started)
    failures = []
    for task in tasks:
        reference, stub = found[references[task.task_id].digest], found[stubs[task.task_id].digest]
        if not reference.passed:
            failures.append(_failure(task, "the reference solution", reference))
        elif stub.passed or stub.status == "harness_error":
            failures.append(_failure(task, "the stub", stub))
    return Result(len(tasks) - len(failures), tuple(failures), None, time.monotonic() - started)


def _failure(task: Task, what: str, verdict: Verdict) -> str:
    issue = known_issues().get(task.task_id)
    known = f" (known: {issue.problem})" if issue else ""
    return f"{task.task_id}: {what} got {verdict.status}{': ' if verdict.detail else ''}{verdict.detail}{known}"
