"""What every side of bench/train.py is given. Standard library and numpy only: peers import this too."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Task:
    """A Llama, the tokens it learns, and how a step looks."""

    tokens: str  # .npy of int32 ids
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    batch: int
    seq: int
    lr: float
    compile: bool


def task_of(settings: dict[str, Any]) -> Task:
    return Task(**{name: settings[name] for name in Task.__dataclass_fields__})


def batches(task: Task) -> Callable[[], np.ndarray]:
    """Each call gives `[batch, seq + 1]` ids that no call gave before, in the same order on each side."""
    tokens = np.load(Path(task.tokens), mmap_mode="r")
    count = (len(tokens) - 1) // task.seq
    order = np.random.default_rng(0).permutation(count)
    place = 0

    def following() -> np.ndarray:
        nonlocal place
        rows = [order[(place + row) % count] * task.seq for row in range(task.batch)]
        place += task.batch
        return np.stack([tokens[start : start + task.seq + 1] for start in rows]).astype(np.int64)

    return following
