"""Best-fit-decreasing bin packing: pieces of documents into sequences, with little padding and nothing cut.

Longest first, each into the fullest sequence that still has room for it. Source: Johnson 1973, "Near-optimal bin
packing algorithms"; for training data, Ding et al. 2024, arXiv:2404.10830.
"""

import numpy as np

from aquila.errors import DataError


class Bins:
    """Groups of item numbers.

    Args:
        items: the numbers, group after group, `[items]`.
        bounds: where each group begins among them and, last, their number, `[groups + 1]`.
    """

    def __init__(self, items: np.ndarray, bounds: np.ndarray) -> None:
        self._items, self._bounds = items, bounds

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> list[int]:
        return self._items[self._bounds[index] : self._bounds[index + 1]].tolist()


def one_a_bin(num_items: int) -> Bins:
    """Every item alone."""
    return Bins(np.arange(num_items), np.arange(num_items + 1))


def best_fit(sizes: np.ndarray, room: int) -> Bins:
    """Items of the given sizes in bins of `room`. Items of one size keep their order; so the result is always the same.

    Raises:
        DataError: an item larger than a bin.
    """
    if len(sizes) and sizes.max() > room:
        raise DataError(f"a piece of {int(sizes.max())} places does not fit into a sequence of {room}")
    bin_of = np.empty(len(sizes), dtype=np.int64)
    open_bins: list[list[int]] = [[] for _ in range(room + 1)]  # by the room they have left
    levels = 0  # bit r is set where a bin with r places left exists: the next fuller one is a shift away
    num_bins = 0
    for item in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[item])
        fitting = levels >> size
        if fitting:
            left = size + (fitting & -fitting).bit_length() - 1
            chosen = open_bins[left].pop()
            if not open_bins[left]:
                levels &= ~(1 << left)
        else:
            chosen, left = num_bins, room
            num_bins += 1
        bin_of[item] = chosen
        if left > size:
            open_bins[left - size].append(chosen)
            levels |= 1 << (left - size)
    return _grouped(bin_of, num_bins)


def _grouped(bin_of: np.ndarray, num_bins: int) -> Bins:
    bounds = np.concatenate([[0], np.cumsum(np.bincount(bin_of, minlength=num_bins))])
    return Bins(np.argsort(bin_of, kind="stable"), bounds)
