"""The order of a run: a bijection, even shares, and numbers that never change."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.data.blend import Blend, Dice, Permutation, key_of
from aquila.errors import ConfigError


@given(st.integers(1, 300), st.integers(0, 2**64 - 1))
def test_every_place_is_hit_once(size, key):
    order = Permutation(size, key)
    assert sorted(order(index) for index in range(size)) == list(range(size))


def test_a_large_range_needs_no_table():
    order = Permutation(10**15, 7)
    hit = {order(index) for index in range(10**15 - 200, 10**15)}
    assert len(hit) == 200
    assert max(hit) - min(hit) > 10**14


def test_orders_differ_with_their_key_and_look_shuffled():
    size = 1000
    one, other = ([Permutation(size, key)(index) for index in range(size)] for key in (1, 2))
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 15
    assert abs(np.corrcoef(one, range(size))[0, 1]) < 0.1


def test_the_order_of_recorded_runs_never_changes():
    """A run that resumes with a newer version must see the same sequences."""
    assert [Permutation(10, key_of(1234, "order", 0, 0))(index) for index in range(10)] == ORDER
    dice = Dice(key_of(1234, "row", 0, 0, 5))
    assert [dice.below(1000) for _ in range(5)] == ROLLS


ORDER = [0, 9, 1, 2, 8, 3, 4, 7, 6, 5]
ROLLS = [95, 279, 454, 520, 465]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6), st.integers(0, 30_000))
def test_shares_hold_at_every_point_of_the_run(weights, num_sequences):
    blend = Blend(weights)
    wanted = np.array(weights) / sum(weights) * num_sequences
    assert blend.counts(num_sequences).sum() == num_sequences
    assert np.abs(blend.counts(num_sequences) - wanted).max() <= len(weights) + num_sequences / blend.period


def test_locating_counts_each_source_without_a_gap():
    blend = Blend([0.4, 0.35, 0.25])
    seen = Counter()
    for index in range(blend.period + 500):
        source, ordinal = blend.locate(index)
        assert ordinal == seen[source]
        seen[source] += 1
    assert blend.locate(10**12) == (blend.locate(0)[0], 10**12 // blend.period * int(blend.quotas[0]))
    assert list(blend.quotas) == [4000, 3500, 2500]


def test_a_share_too_small_to_keep_is_refused():
    assert Blend([1.0, 2e-6]).quotas.min() >= 1
    with pytest.raises(ConfigError, match=r"mix\.1\.weight: a share of 1e-09 is below one sequence in 10,000,000"):
        Blend([1.0, 1e-9])


@given(st.integers(1, 50), st.integers(0, 2**64 - 1))
def test_dice_stay_below(count, key):
    dice = Dice(key)
    assert all(0 <= dice.below(count) < count and 0 <= dice.uniform() < 1 for _ in range(20))
    assert dice.choose([0, 1, 0]) == 1
