"""Keeps a bad step out of the weights: what is not a number, or far above what came before, is skipped and counted.

A spike is a loss or gradient norm more than `spike_sigma` deviations above the mean of the last steps that were
taken. The idea of skipping on recent statistics is that of OLMo-core's SkipStepOptimizer."""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from aquila.errors import TrainingError
from aquila.train.recipe import TrainConfig

WINDOW = 128  # steps
MIN_STEPS = 32  # before that nothing is called a spike
# Least deviation, as a share of the mean: a smooth run is not stopped by its own smoothness. Clipping already bounds
# what a large gradient does, so only one of another order of magnitude counts.
_MIN_LOSS_DEVIATION, _MIN_NORM_DEVIATION = 0.02, 1.0


class Guard:
    """Judges each step by its loss and gradient norm before the optimizer takes it."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.num_skipped = 0
        self._in_a_row = 0
        self._num_taken = 0
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._norms: deque[float] = deque(maxlen=WINDOW)

    def judge(self, step: int, loss: float, grad_norm: float, *, overflow_is_expected: bool = False) -> str | None:
        """None: take the step. Otherwise why it is to be skipped, `nan` or `spike`.

        `overflow_is_expected`: fp16 finds its loss scale by overflowing; that is counted but never ends the run.

        Raises:
            TrainingError: the first step of a run is not a number, or too many in a row were skipped.
        """
        why = self._verdict(loss, grad_norm)
        if why is None:
            self._in_a_row = 0
            self._num_taken += 1
            self._losses.append(loss)
            self._norms.append(grad_norm)
            return None
        self.num_skipped += 1
        if why == "nan" and overflow_is_expected and math.isfinite(loss):
            return "overflow"
        self._in_a_row += 1
        shown = f"loss {loss:g}, gradient norm {grad_norm:g}"
        if why == "nan" and self._num_taken == 0:
            raise TrainingError(
                f"step {step + 1}: {shown}: not a number before anything was learned; check the initial weights "
                "(`aquila verify`), train.lr, and parallel.precision (fp16 weights of 2023 may need bf16 or fp32)"
            )
        if self._in_a_row >= self.config.max_skipped_steps:
            raise TrainingError(
                f"step {step + 1}: {shown}: {self._in_a_row} steps in a row were skipped; go on from an earlier "
                "checkpoint with a lower train.lr, or look at the data with `aquila data peek`"
            )
        return why

    def _verdict(self, loss: float, grad_norm: float) -> str | None:
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return "nan"
        if self.config.spike_sigma and len(self._losses) >= MIN_STEPS:
            for value, recent, least in (
                (loss, self._losses, _MIN_LOSS_DEVIATION),
                (grad_norm, self._norms, _MIN_NORM_DEVIATION),
            ):
                mean = statistics.fmean(recent)
                deviation = max(statistics.pstdev(recent, mean), least * abs(mean))
                if value > mean + self.config.spike_sigma * deviation:
                    return "spike"
        return None

    def state(self) -> dict[str, Any]:
        """JSON from which `restore` makes the same guard, to the last bit."""
        return {
            "num_skipped": self.num_skipped,
            "in_a_row": self._in_a_row,
            "num_taken": self._num_taken,
            "losses": list(self._losses),
            "norms": list(self._norms),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.num_skipped, self._in_a_row, self._num_taken = (
            state["num_skipped"],
            state["in_a_row"],
            state["num_taken"],
        )
        self._losses = deque(state["losses"], maxlen=WINDOW)
        self._norms = deque(state["norms"], maxlen=WINDOW)
