"""pass@k against the paper's other form, against counting by hand, and its intervals."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.errors import ConfigError
from aquila.evaluate.pass_at_k import estimate, pass_at_k


def product_form(n: int, c: int, k: int) -> float:
    """The stable product of the paper's listing, in floats."""
    return 1.0 if n - c < k else 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


@given(st.data())
def test_equals_the_published_estimator(data):
    n = data.draw(st.integers(1, 400))
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert float(pass_at_k(n, c, k)) == pytest.approx(product_form(n, c, k), abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(6, 2, 3), (5, 0, 2), (7, 7, 1), (8, 1, 8), (6, 5, 2)])
def test_is_the_share_of_draws_that_hold_a_correct_one(n: int, c: int, k: int):
    draws = list(combinations(range(n), k))
    assert pass_at_k(n, c, k) == Fraction(sum(min(draw) < c for draw in draws), len(draws))


def test_the_biased_form_is_not_used():
    assert float(pass_at_k(200, 2, 100)) == pytest.approx(0.7512562, abs=1e-6)  # 1 - (1 - 2/200)^100 is 0.634


def test_it_is_not_defined_for_more_tries_than_samples():
    with pytest.raises(ConfigError, match="pass@11 is not defined for 10 samples a task; take at least 11"):
        pass_at_k(10, 3, 11)
    assert estimate([(20, 3), (10, 3)], 11) is None
    assert estimate([], 1) is None
    with pytest.raises(ConfigError, match="5 correct of 4 samples cannot be"):
        pass_at_k(4, 5, 1)


def test_the_interval_of_one_try_is_that_of_a_share():
    """164 tasks at 26 %: the normal interval is 6.7 points each way."""
    found = estimate([(1, int(index < 43)) for index in range(164)], 1)
    assert found is not None
    assert found.value == 43 / 164
    half = 1.96 * (found.value * (1 - found.value) / 164) ** 0.5
    assert found.value - found.low == pytest.approx(half, abs=0.012)
    assert found.high - found.value == pytest.approx(half, abs=0.012)


def test_the_same_counts_give_the_same_figures_to_the_last_bit():
    counts = [(20, index % 7) for index in range(50)]
    assert estimate(counts, 10) == estimate(counts, 10)
    assert estimate(counts, 10) != estimate(counts, 10, seed=1)


def test_all_or_nothing_leaves_no_interval():
    found = estimate([(5, 5)] * 10, 3)
    assert found is not None
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
