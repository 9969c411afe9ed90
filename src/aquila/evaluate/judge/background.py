"""Judging beside other work: a thread that keeps the judging processes busy, for one that draws samples meanwhile."""

import queue
import threading
from collections import deque
from types import TracebackType

from aquila.evaluate.judge.pool import Pool, Program, default_workers
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.tasks import Benchmark
from aquila.evaluate.verdict import Verdict
from aquila.sandbox.isolation import Isolation

_POLL_SECONDS = 0.2


class BackgroundJudge:
    """Verdicts on programs as they are put. Its processes start with the first one.

    Raises:
        AquilaError: from `take`, where no judge starts.
    """

    def __init__(self, benchmark: Benchmark, isolation: Isolation, rules: Rules, *, num_workers: int | None) -> None:
        self._pool = Pool(benchmark, isolation, rules, num_workers or default_workers(benchmark.language))
        self._waiting: deque[Program] = deque()
        self._results: queue.SimpleQueue[tuple[Program, Verdict] | Exception] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._started = self._closed = False
        self._num_open = 0
        self._thread = threading.Thread(target=self._run, daemon=True, name="judge")

    def __enter__(self) -> "BackgroundJudge":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed = True
        self._wake.set()
        if self._started:
            self._thread.join()

    @property
    def num_open(self) -> int:
        """Programs that were put and whose verdict was not taken."""
        return self._num_open

    def put(self, program: Program) -> None:
        self._num_open += 1
        self._waiting.append(program)
        self._wake.set()
        if not self._started:
            self._started = True
            self._thread.start()

    def take(self, *, wait: bool) -> tuple[Program, Verdict] | None:
        """The next verdict; None where there is none yet, or none to wait for."""
        if not self._num_open:
            return None
        try:
            result = self._results.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(result, Exception):
            raise result
        self._num_open -= 1
        return result

    def _run(self) -> None:
        try:
            with self._pool as pool:
                while not self._closed:
                    self._wake.clear()
                    if not self._waiting and not pool.busy:
                        self._wake.wait()
                    for result in pool.poll(self._waiting, _POLL_SECONDS):
                        self._results.put(result)
        except Exception as error:  # noqa: BLE001  the thread that takes raises it
            self._results.put(error)
