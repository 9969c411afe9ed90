"""The one thread that owns the engine, and how the event loop talks to it.

    loop    submit / cancel ──▶ inbox (a queue that threads share) ──▶ engine thread: take orders, compute a step
    loop    asyncio queue of the ticket ◀── one call into the loop a step ◀── the step's deltas

Nothing else touches the engine after `start`. An order waits for one step at most, so whoever closes a stream has its
pages back within one. An error ends the requests that it concerns; the thread goes on with the others.
"""

import asyncio
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from aquila.errors import AquilaError, GenerationError
from aquila.generate.load import Model
from aquila.generate.request import Completion, Delta, Request, assemble

log = logging.getLogger(__name__)

NUM_DURATIONS = 32  # finished requests whose mean time tells a client when to ask again
LONGEST_RETRY_SECONDS = 30
BROKEN = "the engine has stopped because of an error; the server's log says why"
STOPPED = "the server was stopped before the answer was finished"


class BusyError(AquilaError):
    """The queue is full. `retry_after_seconds` says when to ask again."""

    def __init__(self, message: str, retry_after_seconds: int):
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class StoppedError(AquilaError):
    """The server is shutting down."""


class FailedError(AquilaError):
    """The request was in order, and its computation failed."""


@dataclass(frozen=True)
class Load:
    """How busy the engine is now, and what it has done since it started."""

    num_running: int
    num_waiting: int
    num_pages: int
    num_free_pages: int
    num_steps: int
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    num_preemptions: int
    num_drafted_tokens: int
    num_accepted_tokens: int

    @property
    def idle(self) -> bool:
        """Nothing runs, nothing waits, and every page is back."""
        return not (self.num_running or self.num_waiting) and self.num_free_pages == self.num_pages


@dataclass(frozen=True)
class Timing:
    """How the requests of one caller went; times count from when they were asked for."""

    seconds_to_first_token: float
    seconds: float
    num_output_tokens: int
    aborted: bool


Item = tuple[int, Delta] | AquilaError  # (which request of the ticket, what it got), or why the ticket ends


@dataclass(eq=False)
class _Ticket:
    """Requests of one caller, and the queue where it waits for their deltas."""

    requests: tuple[Request, ...]
    loop: asyncio.AbstractEventLoop
    items: asyncio.Queue[Item] = field(default_factory=asyncio.Queue)
    engine_ids: list[int] = field(default_factory=list)  # the engine thread's
    num_open: int = 0  # completions that are not finished; the engine thread's

    @property
    def num_completions(self) -> int:
        return sum(request.params.n for request in self.requests)

    def deliver(self, items: list[Item]) -> None:
        for item in items:
            self.items.put_nowait(item)


@dataclass(frozen=True)
class _Submit:
    ticket: _Ticket


@dataclass(frozen=True)
class _Cancel:
    ticket: _Ticket


@dataclass(frozen=True)
class _CancelAll:
    message: str


@dataclass(frozen=True)
class _Stop:
    pass


class Worker:
    """Runs requests of any number of coroutines on one engine.

    Args:
        model: a loaded model; its engine belongs to the worker from `start` on.
        max_queue: completions that may wait beside those that run.
        observe: hears how each request went, in its caller's thread.
    """

    def __init__(self, model: Model, *, max_queue: int = 256, observe: Callable[[Timing], None] | None = None):
        self.model = model
        self._observe = observe
        self.max_queue = max_queue
        self._engine = model.engine
        self._max_running = model.engine.scheduler.max_sequences
        self._inbox: queue.SimpleQueue[_Submit | _Cancel | _CancelAll | _Stop] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._tickets: dict[int, tuple[_Ticket, int]] = {}  # engine's request id -> (ticket, which of its requests)
        self._num_in_flight = 0  # completions that callers wait for; the loop's
        self._num_stalled = 0  # sequences that had no room in the last step; written by the thread
        self._durations: deque[float] = deque(maxlen=NUM_DURATIONS)
        self._stopping = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its step; what still runs gets an error. May be called from any thread."""
        self.refuse()
        self._inbox.put(_Stop())
        if self._thread.is_alive():
            self._thread.join()

    def refuse(self) -> None:
        """From now on new requests raise `StoppedError`; those that run go on."""
        self._stopping = True

    def cancel_all(self, message: str) -> None:
        """Ends everything that runs or waits with an error that says `message`."""
        self._inbox.put(_CancelAll(message))

    @property
    def alive(self) -> bool:
        """Whether new requests are taken."""
        return self._thread.is_alive() and not self._stopping

    @property
    def num_in_flight(self) -> int:
        """Completions that callers wait for now."""
        return self._num_in_flight

    @property
    def num_waiting(self) -> int:
        """Completions that wait for a place."""
        return max(self._num_in_flight - self._max_running, min(self._num_stalled, self._num_in_flight), 0)

    async def stream(self, request: Request) -> AsyncGenerator[Delta]:
        """Deltas of one request as they come. Closing the iterator cancels the request within one step.

        Raises:
            ConfigError, GenerationError: it can never run.
            FailedError: its computation failed.
            BusyError: the queue is full.
            StoppedError: the server is shutting down.
        """
        items = self.stream_all([request])
        try:
            async for _, delta in items:
                yield delta
        finally:
            await items.aclose()

    async def stream_all(self, requests: Sequence[Request]) -> AsyncGenerator[tuple[int, Delta]]:
        """Deltas of several requests that run together, each with its request's place. See `stream`."""
        ticket = _Ticket(tuple(requests), asyncio.get_running_loop())
        await self._compile_grammars(ticket.requests)
        self._admit(ticket.num_completions)
        started = time.monotonic()
        first: float | None = None
        num_tokens, remaining = 0, ticket.num_completions
        self._num_in_flight += ticket.num_completions
        self._inbox.put(_Submit(ticket))
        try:
            while remaining:
                item = await ticket.items.get()
                if isinstance(item, AquilaError):
                    raise item
                if item[1].error is not None:
                    raise FailedError(item[1].error)
                first = first or time.monotonic()
                num_tokens += len(item[1].token_ids)
                remaining -= item[1].finish_reason is not None
                yield item
            self._durations.append(time.monotonic() - started)
        finally:
            self._num_in_flight -= ticket.num_completions
            if remaining:
                self._inbox.put(_Cancel(ticket))
            now = time.monotonic()
            if self._observe is not None:
                self._observe(Timing((first or now) - started, now - started, num_tokens, aborted=remaining > 0))

    async def complete(self, request: Request) -> list[Completion]:
        """The `n` completions of a request, in order. Cancelling the task cancels the request. See `stream`."""
        (completions,) = await self.complete_all([request])
        return completions

    async def complete_all(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """For each request its `n` completions; all run together. See `stream`."""
        deltas: list[list[list[Delta]]] = [[[] for _ in range(request.params.n)] for request in requests]
        items = self.stream_all(requests)
        try:
            async for place, delta in items:
                deltas[place][delta.index].append(delta)
        finally:
            await items.aclose()
        return [
            [assemble(request, entry) for entry in entries] for request, entries in zip(requests, deltas, strict=True)
        ]

    def stats(self) -> Load:
        """A glance from any thread: figures may belong to neighbouring steps."""
        engine, counts = self._engine, self._engine.stats
        running = len(engine.scheduler.running)
        return Load(
            num_running=running,
            num_waiting=max(self._num_in_flight - running, len(engine.scheduler.waiting)),
            num_pages=engine.pool.num_pages,
            num_free_pages=engine.pool.num_free,
            num_steps=counts.num_steps,
            num_prompt_tokens=counts.num_prompt_tokens,
            num_cached_tokens=counts.num_cached_tokens,
            num_output_tokens=counts.num_output_tokens,
            num_preemptions=counts.num_preemptions,
            num_drafted_tokens=counts.num_drafted_tokens,
            num_accepted_tokens=counts.num_accepted_tokens,
        )

    async def _compile_grammars(self, requests: Sequence[Request]) -> None:
        """Off the loop and off the engine thread: a large schema takes its time, and a wrong one fails here."""
        for grammar in {request.params.grammar for request in requests if request.params.grammar is not None}:
            await asyncio.to_thread(self._engine.grammars.check, grammar)

    def _admit(self, num_completions: int) -> None:
        if not self.alive:
            raise StoppedError("the server is shutting down; ask again later, or another server")
        room = self._max_running + self.max_queue
        if num_completions > room:
            raise GenerationError(
                f"the request asks for {num_completions} completions at once, and the server takes {room}; ask for "
                "fewer, or send several requests"
            )
        waiting = max(self._num_in_flight + num_completions - self._max_running, self._num_stalled)
        if waiting > self.max_queue:
            raise BusyError(
                f"the server is full: {self._num_in_flight} completions run or wait, and {self.max_queue} may wait; "
                "ask again later",
                self._retry_after_seconds(),
            )

    def _retry_after_seconds(self) -> int:
        mean = sum(self._durations) / len(self._durations) if self._durations else 1.0
        return min(max(1, math.ceil(mean)), LONGEST_RETRY_SECONDS)

    # --- the engine thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve_orders()
        except Exception:  # not even what a failed step left could be taken away: nothing can be trusted any more
            log.critical("the engine has stopped; restart the server", exc_info=True)
            self._stopping = True
            _post({ticket: [FailedError(BROKEN)] for ticket in {ticket for ticket, _ in self._tickets.values()}})
            self._refuse_orders()

    def _serve_orders(self) -> None:
        while self._take_orders():
            try:
                deltas = self._engine.step()
            except Exception:
                log.exception("a step failed; the requests in it end with an error")
                self._fail_all(FailedError("the server failed to compute this; its log says why"))
                continue
            self._num_stalled = len(self._engine.scheduler.waiting)
            self._hand_out(deltas)

    def _take_orders(self) -> bool:
        """Does what has been asked for, waiting for an order when there is nothing to compute; False: stop."""
        while True:
            try:
                order = self._inbox.get(block=not self._engine.busy)
            except queue.Empty:
                return True
            match order:
                case _Submit(ticket):
                    self._submit(ticket)
                case _Cancel(ticket):
                    self._cancel(ticket)
                case _CancelAll(message):
                    self._fail_all(StoppedError(message))
                case _Stop():
                    self._fail_all(StoppedError(STOPPED))
                    self._refuse_orders()
                    return False

    def _refuse_orders(self) -> None:
        while not self._inbox.empty():
            order = self._inbox.get()
            if isinstance(order, _Submit):
                _post({order.ticket: [StoppedError(STOPPED)]})

    def _submit(self, ticket: _Ticket) -> None:
        try:
            for place, request in enumerate(ticket.requests):
                request_id = self._engine.submit(request)
                ticket.engine_ids.append(request_id)
                ticket.num_open += request.params.n
                self._tickets[request_id] = (ticket, place)
        except AquilaError as error:
            self._cancel(ticket)
            _post({ticket: [error]})
        except Exception:
            log.exception("a request could not be submitted")
            self._cancel(ticket)
            _post({ticket: [FailedError("the server failed to start this request; its log says why")]})

    def _cancel(self, ticket: _Ticket) -> None:
        for request_id in ticket.engine_ids:
            self._engine.cancel(request_id)
            self._tickets.pop(request_id, None)
        ticket.engine_ids.clear()
        self._num_stalled = len(self._engine.scheduler.waiting)

    def _fail_all(self, error: AquilaError) -> None:
        tickets = {ticket for ticket, _ in self._tickets.values()}
        for ticket in tickets:
            self._cancel(ticket)
        _post({ticket: [error] for ticket in tickets})

    def _hand_out(self, deltas: Sequence[Delta]) -> None:
        items: dict[_Ticket, list[Item]] = {}
        for delta in deltas:
            ticket, place = self._tickets[delta.request_id]
            items.setdefault(ticket, []).append((place, delta))
            ticket.num_open -= delta.finish_reason is not None
            if ticket.num_open == 0:
                for request_id in ticket.engine_ids:
                    self._tickets.pop(request_id, None)
                ticket.engine_ids.clear()
        _post(items)


def _post(items: dict[_Ticket, list[Item]]) -> None:
    """Wakes each loop once."""
    per_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Ticket, list[Item]]]] = {}
    for ticket, new in items.items():
        per_loop.setdefault(ticket.loop, []).append((ticket, new))
    for loop, entries in per_loop.items():
        try:
            loop.call_soon_threadsafe(_deliver, entries)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.debug("a loop was closed before its answers came")


def _deliver(entries: list[tuple[_Ticket, list[Item]]]) -> None:
    for ticket, items in entries:
        ticket.deliver(items)
