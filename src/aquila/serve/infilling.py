"""Middles from the engine: what every route that fills in the middle has in common.

job = InfillJob(infill_request(model, prefix, suffix, params), suffix)
async for delta in job.stream(worker): ...        # text is cleaned; the engine stops as soon as nothing will follow
completions = await job.complete(worker)
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace

from aquila.generate.middle import MiddleStream
from aquila.generate.request import Completion, Delta, Request, assemble
from aquila.serve.worker import Worker


@dataclass(frozen=True)
class InfillJob:
    """A request whose completions go between its prompt and `suffix`.

    Attributes:
        min_indent: a middle ends before a line that is indented less.
        single_line: it ends with its first line.
        max_seconds: once it has a line, it ends when so much time has passed since its first token.
    """

    request: Request
    suffix: str
    min_indent: int = 0
    single_line: bool = False
    max_seconds: float | None = None

    async def stream(self, worker: Worker) -> AsyncGenerator[Delta]:
        """Cleaned deltas. Closing the iterator cancels the request; it closes itself when all middles are done."""
        async with aclosing(worker.stream(self.request)) as deltas:
            async for delta in self.clean(deltas):
                yield delta

    async def complete(self, worker: Worker) -> list[Completion]:
        """The `n` middles, in order."""
        deltas: list[list[Delta]] = [[] for _ in range(self.request.params.n)]
        async with aclosing(self.stream(worker)) as stream:
            async for delta in stream:
                deltas[delta.index].append(delta)
        return [assemble(self.request, entry) for entry in deltas]

    async def clean(self, deltas: AsyncIterator[Delta]) -> AsyncGenerator[Delta]:
        """Passes deltas on with cleaned text, each completion up to its last, and ends with the last of all."""
        streams = [
            MiddleStream(self.suffix, min_indent=self.min_indent, single_line=self.single_line)
            for _ in range(self.request.params.n)
        ]
        remaining = len(streams)
        first_token: float | None = None
        has_line = [False] * remaining
        async for delta in deltas:
            first_token = first_token or time.monotonic()
            middle = streams[delta.index]
            if middle.done:
                continue
            text = middle.push(delta.text)
            reason = "stop" if middle.done else delta.finish_reason
            has_line[delta.index] |= "\n" in delta.text
            if reason is None and has_line[delta.index] and self._is_late(first_token):
                reason = "length"
            if reason is not None and not middle.done:
                text += middle.finish(ended=reason == "stop")
            remaining -= reason is not None
            yield replace(delta, text=text, finish_reason=reason)
            if not remaining:
                return

    def _is_late(self, first_token: float) -> bool:
        return self.max_seconds is not None and time.monotonic() - first_token > self.max_seconds
