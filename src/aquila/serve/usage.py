"""What a request took: tokens as OpenAI counts them, and times as llama.cpp reports them."""

import time
from collections.abc import Sequence
from typing import Any

from aquila.generate.request import Delta, Request


class Tally:
    """Counts the deltas of the requests of one caller, from when it was made."""

    def __init__(self, requests: Sequence[Request]):
        self.prompt_tokens = sum(len(request.prompt_ids) for request in requests)
        self.completion_tokens = 0
        self._cached: dict[int, int] = {}
        self._started = time.perf_counter()
        self._first: float | None = None
        self._last = self._started

    def hear(self, place: int, delta: Delta) -> None:
        """A delta of the request at `place`."""
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self.completion_tokens += len(delta.token_ids)
        if delta.index == 0:
            self._cached[place] = delta.num_cached_tokens

    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached.values())},
        }

    def timings(self) -> dict[str, Any]:
        """Milliseconds and rates; the prompt's until the first token, the rest after it."""
        first = self._first or self._last
        prompt_ms = (first - self._started) * 1000
        predicted_ms = (self._last - first) * 1000
        cached = sum(self._cached.values())
        return {
            "cache_n": cached,
            "prompt_n": self.prompt_tokens - cached,
            "prompt_ms": round(prompt_ms, 3),
            "prompt_per_second": _rate(self.prompt_tokens - cached, prompt_ms),
            "predicted_n": self.completion_tokens,
            "predicted_ms": round(predicted_ms, 3),
            "predicted_per_second": _rate(self.completion_tokens - 1, predicted_ms),
        }


def _rate(count: int, milliseconds: float) -> float:
    return round(count / milliseconds * 1000, 3) if count > 0 and milliseconds > 0 else 0.0
