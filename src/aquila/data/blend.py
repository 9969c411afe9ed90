"""The order of a run: which source a sequence comes from, and which of its sequences, by arithmetic alone.

Nothing is shuffled and no index is kept. Sequence i of a run has its source by a table that repeats (`Blend`), and its
place in that source by a keyed bijection of the numbers below n (`Permutation`), so any i is found in the same time,
and every sequence of a source comes up once in each of its epochs. Sources: Black and Rogaway 2002, "Ciphers with
arbitrary finite domains" (cycle walking); Steele et al. 2014, SplitMix64 (the mixing of bits).
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from aquila.errors import ConfigError

_ROUNDS = 6
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_PERIOD = 10_000  # shares in whole percent and hundredths of them come out exactly
_MAX_PERIOD = 10_000_000


def key_of(*parts: int | str) -> int:
    """A 64-bit key that depends on every part and their order."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Dice:
    """Random numbers from a key, the same on every machine and with every version of every library."""

    def __init__(self, key: int) -> None:
        self._state = key & _MASK

    def below(self, count: int) -> int:
        """A whole number from 0 to `count` - 1."""
        return (self._next() * count) >> 64

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return (self._next() >> 11) / (1 << 53)

    def choose(self, weights: Sequence[float]) -> int:
        """An index, by weight."""
        place = self.uniform() * sum(weights)
        for index, weight in enumerate(weights):
            place -= weight
            if place < 0:
                return index
        return max(index for index, weight in enumerate(weights) if weight > 0)  # rounding took it past the end

    def _next(self) -> int:
        self._state = (self._state + _GOLDEN) & _MASK
        return _mix(self._state)


class Permutation:
    """A bijection of 0 .. `size` - 1 onto itself that looks like a shuffle, computed place by place.

    A Feistel network permutes the smallest range of 4^k numbers that holds `size`; a result beyond `size` is put
    through it again until it is below, which keeps the map a bijection and takes less than four rounds on average.
    """

    def __init__(self, size: int, key: int) -> None:
        assert size > 0, "there is nothing to permute"
        self.size = size
        self._bits = max(1, ((size - 1).bit_length() + 1) // 2)  # of each half
        dice = Dice(key)
        self._keys = [dice._next() for _ in range(_ROUNDS)]

    def __call__(self, index: int) -> int:
        assert 0 <= index < self.size
        while True:
            index = self._network(index)
            if index < self.size:
                return index

    def _network(self, value: int) -> int:
        mask = (1 << self._bits) - 1
        left, right = value >> self._bits, value & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << self._bits) | right


class Blend:
    """Spreads sequences over sources by weight, as evenly as whole numbers allow at any point of the run.

    Args:
        weights: one for each source, above 0; only their ratios count.

    Raises:
        ConfigError: a share too small to be kept.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        shares = np.asarray(weights, dtype=np.float64) / sum(weights)
        period = 1 if len(shares) == 1 else _PERIOD
        while shares.min() * period < 1:
            period *= 10
            if period > _MAX_PERIOD:
                raise ConfigError(
                    f"mix.{int(shares.argmin())}.weight: a share of {shares.min():.3g} is below one sequence in "
                    f"{_MAX_PERIOD:,}; give it more, or leave the source out"
                )
        self.quotas = _whole_shares(shares, period)  # sequences of each source in a period
        self.period = period
        self._source = _spread(self.quotas)  # [period], the source of each place
        self._ordinal = np.zeros(period, dtype=np.int64)  # [period], how many of that source came before it
        for source, quota in enumerate(self.quotas):
            self._ordinal[self._source == source] = np.arange(quota)

    def locate(self, index: int) -> tuple[int, int]:
        """Source of sequence `index` of the run, and how many of that source came before it."""
        cycle, place = divmod(index, self.period)
        source = int(self._source[place])
        return source, cycle * int(self.quotas[source]) + int(self._ordinal[place])

    def counts(self, num_sequences: int) -> np.ndarray:
        """How many of the first `num_sequences` come from each source, int64 `[sources]`."""
        cycles, rest = divmod(num_sequences, self.period)
        return cycles * self.quotas + np.bincount(self._source[:rest], minlength=len(self.quotas))


def _whole_shares(shares: np.ndarray, period: int) -> np.ndarray:
    """Whole numbers near `shares` * `period` that add up to `period` (largest remainders)."""
    exact = shares * period
    whole = np.floor(exact).astype(np.int64)
    missing = period - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
    return whole


def _spread(quotas: np.ndarray) -> np.ndarray:
    """Each source `quotas[k]` times at even distances, int64 `[sum of quotas]`."""
    source = np.repeat(np.arange(len(quotas)), quotas)
    wanted = np.concatenate([(np.arange(quota) + 0.5) / quota for quota in quotas])
    return source[np.argsort(wanted, kind="stable")]


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)
