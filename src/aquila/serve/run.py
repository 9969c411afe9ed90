"""A server's life: listen -> load the model meanwhile -> serve -> drain when asked to stop -> leave.

    SIGTERM or Ctrl-C   new requests get 503, running ones may finish within `drain_seconds`, then end with an error
    Ctrl-C again        everything ends at once

The port is taken before the model is loaded, so a port in use is known at once, and `/health` says "loading".
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from aquila.errors import ConfigError
from aquila.generate.load import Model
from aquila.serve.app import create_app
from aquila.serve.connection import connection_class
from aquila.serve.server import Server

log = logging.getLogger(__name__)

BACKLOG = 2048
POLL_SECONDS = 0.05
LAST_EVENTS_SECONDS = 5  # for the events that say why a stream ends
INTERRUPTED = 130


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. `ConfigError` where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small pieces at once (TCP_NODELAY) only where a socket says that it is TCP; else a client that
    # acknowledges late, as Linux does, sees the first token 40 ms late
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        sock.close()
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on {host}:{port}: {why}; choose another --port or --host") from None
    sock.setblocking(False)
    return sock


class Service(uvicorn.Server):
    """Runs a `Server` on a socket until it is asked to stop.

    Args:
        server: the state behind the routes.
        sock: listens already.
        load: gives the model; runs in a thread of its own.
        on_ready: is called in that thread once requests are taken.
    """

    def __init__(
        self, server: Server, sock: socket.socket, load: Callable[[], Model], on_ready: Callable[[], None] | None = None
    ):
        config = uvicorn.Config(
            create_app(server),
            http=connection_class(server.settings.read_seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=LAST_EVENTS_SECONDS,
            timeout_keep_alive=30,
        )
        super().__init__(config)
        self.server = server
        self.failure: BaseException | None = None  # why the model could not be loaded
        self._sock = sock
        self._load = load
        self._on_ready = on_ready
        self._loader = threading.Thread(target=self._become_ready, name="load", daemon=True)
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run_until_stopped(self) -> int:
        """Serves; gives an exit code. Raises what kept the model from being loaded."""
        asyncio.run(self._serve_and_stop())
        if self.failure is not None:
            raise self.failure
        if self._loader.is_alive():  # it may be anywhere in foreign code: nothing of it can be waited for
            leave_now(0)
        return 0

    def take_signals(self) -> None:
        """Answers SIGTERM and Ctrl-C from now on; before `run_until_stopped` they end the process. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)

    def ask_to_stop(self) -> None:
        """What SIGTERM does; may be called from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin_drain)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal. uvicorn would close the port at once; we say 503 there until all is done."""
        if self._loop is None:
            leave_now(0)
        if sig == signal.SIGINT and self._draining is not None:
            leave_now(INTERRUPTED)
        self.ask_to_stop()

    async def _serve_and_stop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loader.start()
        try:
            await self.serve(sockets=[self._sock])
        finally:
            await asyncio.to_thread(self.server.stop)

    def _become_ready(self) -> None:
        try:
            self.server.become_ready(self._load())
        except BaseException as error:  # noqa: BLE001  raised again in the main thread
            self.failure = error
            self.ask_to_stop()
            return
        if self._on_ready is not None and self.server.phase == "ready":
            self._on_ready()

    def _begin_drain(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        """Waits for those that run, then ends the rest, then the server."""
        self.server.drain()
        worker = self.server.any_worker
        if self.server.num_open_requests:
            log.info("stopping: waiting up to %g s for %d requests", self._limit(), self.server.num_open_requests)
        await self._until_quiet(self._limit())
        if worker is not None and worker.num_in_flight:
            log.info("stopping: %d completions are cut off", worker.num_in_flight)
            worker.cancel_all("the server is shutting down, and the answer took longer than it waits for")
            await self._until_quiet(LAST_EVENTS_SECONDS)
        self.should_exit = True

    async def _until_quiet(self, seconds: float) -> None:
        for _ in range(int(seconds / POLL_SECONDS)):
            if not self.server.num_open_requests:
                return
            await asyncio.sleep(POLL_SECONDS)

    def _limit(self) -> float:
        return self.server.settings.drain_seconds


def leave_now(exit_code: int) -> None:
    """Ends the process without waiting for any thread."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
