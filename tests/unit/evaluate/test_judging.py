"""Files of samples through judging processes: counts, agreement with the original rules, and judges that die."""

import importlib.util
import os
import signal
from pathlib import Path
from types import ModuleType

import pytest

from aquila.errors import EvaluationError
from aquila.evaluate.judge.pool import Program, judge_programs
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.judging import Judged, judge_samples
from aquila.evaluate.samples_file import Sample
from aquila.evaluate.tasks import Benchmark, read_benchmark
from aquila.evaluate.verdict import Verdict
from aquila.sandbox.isolation import Isolation, find_isolation
from parts import ROOT, shared_data

QUICK = Rules(seconds=3.0, call_seconds=3.0)


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return read_benchmark("humaneval", shared_data("humaneval"))


@pytest.fixture(scope="module")
def walls() -> Isolation:
    return find_isolation()


def sample(task_id: str, index: int, text: str) -> Sample:
    return Sample(task_id, index, text, whole=False)


def load_mutants() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "bench" / "mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_samples_are_counted_and_scored(benchmark: Benchmark, walls: Isolation):
    good = {task_id: task.canonical_solution for task_id, task in list(benchmark.tasks.items())[:3]}
    samples = [sample(task_id, 0, text) for task_id, text in good.items()]
    samples += [sample(task_id, 1, "    return 'no'\n") for task_id in good]
    samples.append(sample("HumanEval/0", 2, good["HumanEval/0"]))
    samples.append(sample("HumanEval/1", 2, "    return (\n"))
    samples.append(sample("HumanEval/2", 2, "    return 'no'\n"))
    heard: list[Program] = []
    judged = judge_samples(benchmark, samples, walls, QUICK, on_verdict=lambda program, _: heard.append(program))
    assert [verdict.status for verdict in judged.verdicts] == [
        *["passed"] * 3,
        *["wrong"] * 3,
        *["passed", "compile_error", "wrong"],
    ]
    assert len(heard) == 7  # equal programs once
    assert judged.counts() == {"HumanEval/0": (3, 2), "HumanEval/1": (3, 1), "HumanEval/2": (3, 1)}
    summary = judged.summary((1, 3, 10))
    assert summary["pass_at_k"]["1"]["value"] == pytest.approx((2 + 1 + 1) / 9)
    assert summary["pass_at_k"]["3"]["value"] == 1.0
    assert "10" not in summary["pass_at_k"]
    assert (summary["num_samples"], summary["num_tasks"], summary["num_tasks_missing"]) == (9, 3, 161)


def test_samples_without_a_verdict_leave_no_score(benchmark: Benchmark, walls: Isolation):
    samples = [sample("HumanEval/0", index, "") for index in range(2)]
    judged = Judged(benchmark, QUICK, walls, samples, [Verdict("passed"), Verdict("harness_error", "disk full")])
    with pytest.raises(EvaluationError, match=r"1 of 2 samples have no verdict \(disk full\), so there is no pass@k"):
        judged.estimates()
    assert judged.summary()["pass_at_k"] is None


def test_a_judge_that_is_killed_has_a_successor(benchmark: Benchmark, walls: Isolation):
    """The program in its hands is judged again; the rest goes on."""
    tasks = list(benchmark.tasks.values())[:12]
    programs = [Program(task.task_id, task.prompt + task.canonical_solution) for task in tasks]
    killed = []

    def kill_one(program: Program, verdict: Verdict) -> None:
        if not killed:
            killed.append(_judges()[0])
            os.kill(killed[0], signal.SIGKILL)

    verdicts = judge_programs(benchmark, programs, walls, QUICK, num_workers=1, on_verdict=kill_one)
    assert killed
    assert all(verdict.passed for verdict in verdicts.values())
    assert len(verdicts) == 12
    assert _judges() == []


def _judges() -> list[int]:
    """Judging processes that this process has started."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    return [int(pid) for pid in children if b"judge.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_both_rules_agree_on_honest_mistakes(benchmark: Benchmark, walls: Isolation):
    """A sample of what bench/judge.py compares with the original harness itself, thousands of them."""
    mutants = load_mutants().mutants
    tasks = list(benchmark.tasks.values())[::6]
    programs = [Program(task.task_id, task.prompt + text) for task in tasks for text in mutants(task, 2)]
    assert len(programs) > 50
    trusted = judge_programs(benchmark, programs, walls, Rules(seconds=2.0, call_seconds=2.0))
    official = judge_programs(benchmark, programs, walls, Rules(rule="official", seconds=2.0))
    differ = [key for key in trusted if trusted[key].passed != official[key].passed]
    assert differ == []
    assert 0 < sum(verdict.passed for verdict in trusted.values()) < len(trusted)


def test_a_reply_that_is_none_costs_its_sample_alone(benchmark: Benchmark, walls: Isolation):
    """Whatever a sample writes where its answers go, and whatever it raises, can be told and printed."""
    task = benchmark.tasks["HumanEval/0"]
    everywhere = (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, {!r})\n    except OSError: pass\nos._exit(0)\n"
    )
    texts = {
        "no JSON": task.prompt + "    return True\n" + everywhere.format(b"x\n"),
        "a list": task.prompt + "    return True\n" + everywhere.format(b"[1]\n"),
        "half a surrogate": task.prompt + "    raise ValueError('\\ud800')\n",
    }
    programs = {name: Program(task.task_id, text) for name, text in texts.items()}
    for rule in ("trusted", "official"):
        found = judge_programs(benchmark, list(programs.values()), walls, Rules(rule=rule, seconds=2.0))
        statuses = {name: found[program.digest].status for name, program in programs.items()}
        assert statuses == {"no JSON": "violation", "a list": "violation", "half a surrogate": "exception"}, rule
        for verdict in found.values():
            verdict.detail.encode()
