"""Paired comparisons, against counting all outcomes and against a bootstrap written down plainly."""

import random
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest

from aquila.errors import EvaluationError
from aquila.evaluate.compare import compare, mcnemar, paired_difference
from aquila.evaluate.pass_at_k import pass_at_k
from aquila.evaluate.run_results import read_run
from run_results_parts import tasks, write_run


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (3, 9), (9, 3), (5, 5), (0, 8), (6, 7)])
def test_mcnemar_is_the_share_of_coin_tosses_at_least_as_uneven(only_a: int, only_b: int):
    solved = [(1, 0)] * only_a + [(0, 1)] * only_b + [(1, 1)] * 4 + [(0, 0)] * 3
    found = mcnemar(solved)
    assert (found.both, found.only_a, found.only_b, found.neither) == (4, only_a, only_b, 3)
    tosses = list(product((0, 1), repeat=only_a + only_b))
    uneven = abs(only_a - only_b)
    as_uneven = sum(abs(2 * sum(toss) - len(toss)) >= uneven for toss in tosses)
    assert found.p == float(Fraction(as_uneven, len(tosses)))


def test_the_difference_is_exact_and_its_interval_that_of_tasks_drawn_in_pairs():
    generator = random.Random(5)
    pairs = [((10, generator.randrange(11)), (20, generator.randrange(21))) for _ in range(80)]
    found = paired_difference(pairs, 5)
    assert found is not None
    each = [pass_at_k(*b, 5) - pass_at_k(*a, 5) for a, b in pairs]
    assert found.difference == float(sum(each) / 80)
    assert found.b - found.a == pytest.approx(found.difference)
    drawn = sorted(sum(map(float, random.Random(seed).choices(each, k=80))) / 80 for seed in range(3000))
    assert found.low == pytest.approx(drawn[75], abs=0.015)
    assert found.high == pytest.approx(drawn[2924], abs=0.015)
    assert found == paired_difference(pairs, 5)


def test_pairing_sees_what_two_intervals_do_not():
    """B solves one more sample of each task: certain, though the tasks spread from never to always."""
    pairs = [((10, share), (10, share + 1)) for share in range(10)] * 4
    found = paired_difference(pairs, 1)
    assert found is not None
    assert found.decided
    assert found.low == pytest.approx(0.1)


def test_what_is_not_defined_is_left_out():
    assert paired_difference([((5, 1), (4, 1))], 5) is None
    assert paired_difference([], 1) is None


def test_two_greedy_runs(tmp_path: Path):
    greedy = {"sampling": {"n": 1, "temperature": 0.0}}
    a = read_run(write_run(tmp_path / "a", {**tasks(12, 0), "HumanEval/3": 1}, **greedy))
    b = read_run(write_run(tmp_path / "b", {**tasks(11, 1), "HumanEval/3": 0}, **greedy, prompt_style="chat"))
    found = compare(a, b)
    assert found.mcnemar is not None
    assert (found.mcnemar.only_a, found.mcnemar.only_b, found.num_tasks, found.num_left_out) == (1, 10, 11, 1)
    assert found.mcnemar.p == 2 * 12 / 2**11
    assert [each.k for each in found.differences] == [1]
    assert [task_id for task_id, _, _ in found.tasks][:2] == ["HumanEval/0", "HumanEval/1"]
    assert found.settings == [("prompt_style", "bare", "chat")]


def test_several_samples_have_no_mcnemar(tmp_path: Path):
    a = read_run(write_run(tmp_path / "a", {"HumanEval/1": 1, "HumanEval/2": 3, "HumanEval/10": 5}))
    b = read_run(write_run(tmp_path / "b", {"HumanEval/1": 1, "HumanEval/2": 4, "HumanEval/10": 0}))
    found = compare(a, b)
    assert found.mcnemar is None
    assert found.tasks == [("HumanEval/10", (5, 5), (5, 0)), ("HumanEval/2", (5, 3), (5, 4))]
    assert found.to_json()["differences"][0]["k"] == 1


def test_refuses_what_cannot_be_compared(tmp_path: Path):
    a = read_run(write_run(tmp_path / "a", tasks(3)))
    other = read_run(write_run(tmp_path / "other", tasks(3), language="js"))
    with pytest.raises(EvaluationError, match="language is 'python' in one and 'js' in the other"):
        compare(a, other)
    data = read_run(write_run(tmp_path / "data", tasks(3), data={"sha256": "cd" * 32}))
    with pytest.raises(EvaluationError, match="their data differ, sha256 b796127e635a and cdcdcdcdcdcd"):
        compare(a, data)
    broken = read_run(write_run(tmp_path / "broken", tasks(3), failure="harness_error", detail="the sandbox is gone"))
    with pytest.raises(
        EvaluationError, match=r"9 of 15 samples have no verdict, first HumanEval/0 sample 2 \(the sandbox is gone\)"
    ):
        compare(a, broken)
    apart = read_run(write_run(tmp_path / "apart", {"HumanEval/7": 1}))
    with pytest.raises(EvaluationError, match="no task in common"):
        compare(a, apart)
