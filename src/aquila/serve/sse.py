"""Server-sent events: `data: <compact JSON>\\n\\n`, a comment now and then so that nobody gives up, `data: [DONE]`.

A stream that has begun cannot change its status any more, so the first event is awaited before the response starts:
what is wrong with the request is an ordinary error with its own status. What fails later is an event.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from aquila.serve.disconnect import unless_client_leaves
from aquila.serve.errors import as_serve_error

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
_LINE_ENDS = (("\x85", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def compact(value: Any) -> bytes:
    """JSON without a space in it that is not text: some clients look for `"content":"`.

    What Unicode counts as the end of a line is escaped: clients that read lines (httpx's `iter_lines`, for one) would
    cut an event in two there.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character, escaped in _LINE_ENDS:
        text = text.replace(character, escaped)
    return text.encode()


def event(value: Any, name: str | None = None) -> bytes:
    """One event, with a name where the protocol has names."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + compact(value) + b"\n\n"


async def event_stream(
    request: Request, events: AsyncGenerator[bytes], *, ping_seconds: float, done: bytes = DONE
) -> StreamingResponse:
    """The response for a generator of events. It is closed, whatever happens, when the client leaves.

    Args:
        request: whose client is answered.
        events: encoded events; what it raises before the first of them is raised here.
        ping_seconds: silence after which a comment is sent, and after which an answer starts without an event.
        done: what ends the stream.
    """
    feed = _Feed(events)
    try:
        await unless_client_leaves(request, feed.wait(ping_seconds))
        feed.raise_early()
    except BaseException:
        await feed.close()
        raise
    return StreamingResponse(_with_pings(feed, ping_seconds, done), media_type="text/event-stream", headers=HEADERS)


class _Feed:
    """Runs a generator in a task of its own and keeps what it gives; what came together leaves in one piece."""

    def __init__(self, events: AsyncGenerator[bytes]):
        self._items: list[bytes] = []
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._task = asyncio.ensure_future(self._pump(events))
        self._task.add_done_callback(lambda _: self._news.set())

    async def wait(self, seconds: float) -> bool:
        """Whether there is something to take within `seconds`: items, an error or the end."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def raise_early(self) -> None:
        """Raises what the generator raised before its first item, if it did."""
        if self._error is not None and not self._items:
            raise self._error

    def take(self) -> tuple[bytes, bool]:
        """All that is there, and whether more may come."""
        data = b"".join(self._items)
        self._items.clear()
        if self._task.done():
            return data + (b"" if self._error is None else event(as_serve_error(self._error).body())), False
        self._news.clear()
        return data, True

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _pump(self, events: AsyncGenerator[bytes]) -> None:
        try:
            async with aclosing(events):
                async for item in events:
                    self._items.append(item)
                    self._news.set()
        except Exception as error:  # noqa: BLE001  the status is sent already: all that is left is an event
            self._error = error


async def _with_pings(feed: _Feed, ping_seconds: float, done: bytes) -> AsyncIterator[bytes]:
    try:
        more = True
        while more:
            if not await feed.wait(ping_seconds):
                yield PING
                continue
            data, more = feed.take()
            if data:
                yield data
        yield done
    finally:
        await feed.close()
