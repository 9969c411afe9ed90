"""Learning rates against their closed forms."""

import math

import pytest

from aquila.errors import ConfigError
from aquila.train.recipe import TrainConfig
from aquila.train.schedule import check_schedule, lr_factor, warmup_steps


def _config(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"steps": 100, "global_batch_size": 1, "warmup_steps": 10, **changes})


def _factors(total: int = 100, **changes: object) -> list[float]:
    return [lr_factor(step, total, _config(**changes)) for step in range(total)]


def test_cosine_ends_at_its_floor_and_is_halfway_in_the_middle() -> None:
    factors = _factors(schedule="cosine", min_lr_ratio=0.1)
    assert factors[9] == 1.0
    assert factors[54] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert factors[-1] == pytest.approx(0.1)
    assert factors[9:] == sorted(factors[9:], reverse=True)


def test_warmup_rises_in_equal_steps_from_its_floor() -> None:
    assert _factors()[:10] == [pytest.approx((step + 1) / 10) for step in range(10)]
    floored = _factors(lr=1e-3, warmup_start_lr=5e-4)
    assert floored[:6] == [pytest.approx(max(0.5, (step + 1) / 10)) for step in range(6)]


def test_wsd_is_flat_until_its_decay() -> None:
    factors = _factors(schedule="wsd", decay_ratio=0.2, min_lr_ratio=0.0)
    assert factors[9:80] == [1.0] * 71
    assert factors[80:] == [pytest.approx(1 - (step + 1) / 20) for step in range(20)]


def test_linear_falls_in_equal_steps() -> None:
    factors = _factors(schedule="linear", min_lr_ratio=0.0)
    assert factors[10:] == [pytest.approx(1 - (step + 1) / 90) for step in range(90)]


def test_constant_and_no_warmup() -> None:
    assert _factors(schedule="constant", warmup_steps=0) == [1.0] * 100


def test_warmup_below_one_is_a_fraction_rounded_down() -> None:
    """As the original reads `warm_up: 0.01`."""
    assert warmup_steps(_config(warmup_steps=0.01), 250) == 2
    assert warmup_steps(_config(warmup_steps=0.01), 99) == 0
    assert warmup_steps(_config(warmup_steps=40), 250) == 40


def test_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="40 steps of warm-up are more than the 30 steps of the run"):
        check_schedule(_config(warmup_steps=40), 30)
