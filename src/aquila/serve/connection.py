"""A connection whose client has to get to the point: a request's head that does not come in time closes it.

uvicorn waits for the first bytes of a request without end, and its limit on idle connections ends with the first byte
that comes (uvicorn/protocols/http/h11_impl.py), so a client that says half a head and stops would hold its connection
for ever. What is timed here is the client's turn only: from when a head may come to when it is whole, and the rest of
a body that nobody reads because its answer is already said. A body that is read has its own limit (`security.py`); an
answer may take as long as it takes, and be read as slowly.
"""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from aquila.serve.errors import ServeError


def connection_class(head_seconds: float) -> type["Connection"]:
    """What uvicorn makes of each connection; a head may take so long."""
    return type("Connection", (Connection,), {"head_seconds": head_seconds})


class Connection(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with a limit on the time a head takes."""

    head_seconds: float

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Starts the clock when it is the client's turn, stops it when it is ours; never winds it up again."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.head_seconds, self._give_up)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:  # half a head: someone waits for an answer
            self.transport.write(_too_slow(self.head_seconds))
        self.transport.close()


def _too_slow(seconds: float) -> bytes:
    error = ServeError(408, f"the head of the request did not come within {seconds:g} seconds")
    body = json.dumps(error.body(), separators=(",", ":")).encode()
    head = f"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + body
