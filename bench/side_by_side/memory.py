"""How fast this machine reads memory, for comparison with what decoding reaches."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

READ_BYTES = 512 << 20  # beyond every cache
PASSES = 5


def read_bandwidth(threads: int) -> float:
    """Bytes a second that `threads` threads read together, the best of a few passes over touched memory.

    numpy sums int64 without holding the interpreter's lock, and as fast as it is read: floats are added in an order
    that makes the sum itself the limit (25 against 32 GB/s on two Zen 4 cores).
    """
    parts = np.array_split(np.ones(READ_BYTES // 8, np.int64), threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(PASSES):
            started = time.perf_counter()
            list(pool.map(np.sum, parts))
            best = min(best, time.perf_counter() - started)
    return READ_BYTES / best
