"""Judging beside other work: every verdict comes, and a judge that cannot start says so to the one who waits."""

from dataclasses import replace

import pytest

from aquila.errors import AquilaError
from aquila.evaluate.judge.background import BackgroundJudge
from aquila.evaluate.judge.pool import Program, judge_programs
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.tasks import Benchmark, read_benchmark
from aquila.sandbox.isolation import Isolation, find_isolation
from parts import shared_data


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return read_benchmark("humaneval", shared_data("humaneval"))


@pytest.fixture(scope="module")
def walls() -> Isolation:
    return find_isolation()


def test_verdicts_are_those_of_the_pool(benchmark, walls):
    tasks = list(benchmark.tasks.values())[:4]
    programs = [
        Program(task.task_id, task.prompt + text) for task in tasks for text in (task.canonical_solution, "    x")
    ]
    found = {}
    with BackgroundJudge(benchmark, walls, Rules(), num_workers=2) as judge:
        assert judge.take(wait=True) is None  # nothing is open
        for program in programs[:5]:
            judge.put(program)
        while (judged := judge.take(wait=True)) is not None:
            found[judged[0].digest] = judged[1].status
        for program in programs[5:]:  # its processes were idle meanwhile
            judge.put(program)
        while (judged := judge.take(wait=True)) is not None:
            found[judged[0].digest] = judged[1].status
    wanted = judge_programs(benchmark, programs, walls, Rules(), num_workers=2)
    assert found == {digest: verdict.status for digest, verdict in wanted.items()}


def test_a_judge_that_cannot_start_raises_where_verdicts_are_taken(walls):
    js = read_benchmark("humaneval-x", shared_data("humaneval"), "js")
    with BackgroundJudge(replace(js, language="go"), walls, Rules(), num_workers=1) as judge:
        judge.put(Program("JavaScript/0", ""))
        with pytest.raises(AquilaError, match="holds js, not go"):
            judge.take(wait=True)
        judge.put(Program("JavaScript/1", ""))  # too late, but no error of its own
