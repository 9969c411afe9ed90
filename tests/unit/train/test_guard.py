"""Bad steps are skipped and counted; a run that cannot go on ends with a reason."""

import json
import math

import pytest

from aquila.errors import TrainingError
from aquila.train.guard import MIN_STEPS, Guard
from aquila.train.recipe import TrainConfig


def _guard(**changes: object) -> Guard:
    return Guard(TrainConfig.model_validate({"steps": 10, "global_batch_size": 1, **changes}))


def _settled(**changes: object) -> Guard:
    guard = _guard(**changes)
    for step in range(MIN_STEPS):
        assert guard.judge(step, 2.0 + 0.1 * (step % 3), 1.0) is None
    return guard


def test_a_spike_is_skipped_and_does_not_become_normal() -> None:
    guard = _settled()
    assert [guard.judge(MIN_STEPS + n, 9.0, 1.0) for n in range(3)] == ["spike"] * 3
    assert guard.judge(MIN_STEPS + 3, 2.1, 1.0) is None
    assert guard.num_skipped == 3


def test_a_gradient_of_another_order_of_magnitude_is_a_spike() -> None:
    guard = _settled()
    assert guard.judge(MIN_STEPS, 2.0, 4.0) is None
    assert guard.judge(MIN_STEPS + 1, 2.0, 400.0) == "spike"


def test_spikes_are_taken_when_the_guard_is_off() -> None:
    assert _settled(spike_sigma=0).judge(MIN_STEPS, 1e6, 1e6) is None


def test_not_a_number_is_skipped_once_something_was_learned() -> None:
    guard = _guard()
    assert guard.judge(0, 2.0, 1.0) is None
    assert guard.judge(1, math.nan, 1.0) == "nan"
    assert guard.judge(2, 2.0, math.inf) == "nan"


def test_not_a_number_from_the_first_step_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"step 1: loss nan.*before anything was learned"):
        _guard().judge(0, math.nan, math.nan)


def test_too_many_in_a_row_end_the_run() -> None:
    guard = _guard(max_skipped_steps=3)
    guard.judge(0, 2.0, 1.0)
    guard.judge(1, math.nan, 1.0)
    guard.judge(2, math.nan, 1.0)
    with pytest.raises(TrainingError, match="3 steps in a row were skipped"):
        guard.judge(3, math.nan, 1.0)


def test_fp16_may_overflow_while_it_looks_for_its_scale() -> None:
    guard = _guard(max_skipped_steps=1)
    assert guard.judge(0, 2.0, math.inf, overflow_is_expected=True) == "overflow"


def test_state_survives_json_to_the_last_bit() -> None:
    guard = _settled()
    guard.judge(MIN_STEPS, 2.0 + 1 / 3, 0.1)
    other = _guard()
    other.restore(json.loads(json.dumps(guard.state())))
    assert other.state() == guard.state()
