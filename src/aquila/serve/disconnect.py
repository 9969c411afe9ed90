"""Work that ends when its client leaves. Nobody else tells a handler that is not a stream."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from aquila.serve.errors import ServeError

CLIENT_LEFT = 499  # nginx' number for it; nobody is there to read it

T = TypeVar("T")


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client of `request` leaves (`ServeError` 499 then)."""
    task = asyncio.ensure_future(work)
    listener = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, listener), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ServeError(CLIENT_LEFT, "the client left")
        return task.result()
    finally:
        for each in (task, listener):
            if not each.done():
                each.cancel()
        await asyncio.gather(task, listener, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
