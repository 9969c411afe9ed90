"""pass@k: the share of tasks that at least one of k samples solves, estimated from n >= k samples a task.

Source: Chen et al. 2021, arXiv:2107.03374, section 2.1: 1 - C(n-c, k) / C(n, k), the mean over tasks. Whole numbers and
fractions up to the end, so a report is the same to the last bit wherever it is made.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb

from aquila.errors import ConfigError

_CONFIDENCE = 0.95
_NUM_RESAMPLES = 2000  # sets of tasks that are drawn


@dataclass(frozen=True)
class Estimate:
    """pass@k with its 95 % interval: tasks drawn anew, as another benchmark of this kind would have others."""

    k: int
    value: float
    low: float
    high: float


def pass_at_k(num_samples: int, num_correct: int, k: int) -> Fraction:
    """Of one task, exactly.

    Raises:
        ConfigError: k is beyond the number of samples: then it is not defined.
    """
    if not 0 <= num_correct <= num_samples:
        raise ConfigError(f"{num_correct} correct of {num_samples} samples cannot be")
    if not 1 <= k <= num_samples:
        raise ConfigError(f"pass@{k} is not defined for {num_samples} samples a task; take at least {k}")
    return 1 - Fraction(comb(num_samples - num_correct, k), comb(num_samples, k))


def estimate(counts: Sequence[tuple[int, int]], k: int, *, seed: int = 0) -> Estimate | None:
    """pass@k over tasks, with a percentile bootstrap interval that is the same for the same seed.

    Args:
        counts: samples and correct ones of each task.
        k: how many tries.
        seed: of the resampling.

    Returns:
        None where it is not defined: no tasks, or one of them has fewer than k samples.
    """
    if not counts or min(num_samples for num_samples, _ in counts) < k:
        return None
    exact = [pass_at_k(num_samples, num_correct, k) for num_samples, num_correct in counts]
    values = [float(value) for value in exact]
    means = _bootstrap_means(values, random.Random(seed))
    outside = int(_NUM_RESAMPLES * (1 - _CONFIDENCE) / 2)
    return Estimate(k, float(sum(exact) / len(exact)), means[outside], means[-1 - outside])


def _bootstrap_means(values: Sequence[float], generator: random.Random) -> list[float]:
    count = len(values)
    return sorted(sum(generator.choices(values, k=count)) / count for _ in range(_NUM_RESAMPLES))
