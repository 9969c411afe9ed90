"""Verdicts that are known already: found for the same question, and for no other."""

from dataclasses import replace

import pytest

from aquila.evaluate.judge.pool import Program
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.tasks import Benchmark, read_benchmark
from aquila.evaluate.verdict import STATUSES, Verdict
from aquila.evaluate.verdict_cache import VerdictCache
from aquila.sandbox.isolation import Isolation
from parts import shared_data

WALLS = Isolation("none")
PROGRAM = Program("HumanEval/0", "def f(): pass\n")
PASSED = Verdict("passed", "", 0.5, 1 << 20)


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return read_benchmark("humaneval", shared_data("humaneval"))


def test_a_verdict_is_found_by_another_run(benchmark, tmp_path):
    with VerdictCache(benchmark, WALLS, Rules(), path=tmp_path / "v") as cache:
        assert cache.get(PROGRAM) is None
        cache.put([(PROGRAM, PASSED)])
    with VerdictCache(benchmark, WALLS, Rules(), path=tmp_path / "v") as cache:
        assert cache.get(PROGRAM) == PASSED
        assert cache.get(Program("HumanEval/1", PROGRAM.text)) is None
        assert cache.get(Program("HumanEval/0", PROGRAM.text + "\n")) is None


def test_other_rules_data_or_walls_ask_anew(benchmark, tmp_path):
    with VerdictCache(benchmark, WALLS, Rules(), path=tmp_path / "v") as cache:
        cache.put([(PROGRAM, PASSED)])
    others = [
        (benchmark, WALLS, Rules(seconds=7.0)),
        (benchmark, WALLS, Rules(rule="official")),
        (replace(benchmark, sha256="0" * 64), WALLS, Rules()),
        (benchmark, replace(WALLS, mode="landlock"), Rules()),
    ]
    for other in others:
        with VerdictCache(*other, path=tmp_path / "v") as cache:
            assert cache.get(PROGRAM) is None


def test_what_a_busy_machine_decides_is_not_kept(benchmark, tmp_path):
    with VerdictCache(benchmark, WALLS, Rules(), path=tmp_path / "v") as cache:
        for status in STATUSES:
            cache.put([(Program("HumanEval/0", status), Verdict(status))])
        kept = [status for status in STATUSES if cache.get(Program("HumanEval/0", status))]
    assert kept == [status for status in STATUSES if status not in ("timeout", "harness_error")]


def test_a_file_that_is_no_cache_is_said_once_and_left(benchmark, tmp_path, caplog):
    (tmp_path / "v").write_text("not a database, but long enough to be taken for one" * 50)
    with VerdictCache(benchmark, WALLS, Rules(), path=tmp_path / "v") as cache:
        cache.put([(PROGRAM, PASSED)])
        assert cache.get(PROGRAM) is None
    assert len(caplog.records) == 1
    assert "file is not a database" in caplog.text
    assert "delete the file to begin anew" in caplog.text
