"""Asked to stop: a run finishes its step, saves, and leaves with a code that says "start me again".

SIGTERM is what torchrun, Slurm and Kubernetes send before they kill; SIGUSR1 is Slurm's early warning
(`--signal=USR1@300`); Ctrl-C is SIGINT. A second signal ends the process at once, as a signal usually does.
"""

import signal
import time
from types import FrameType, TracebackType

from aquila.launch.torchrun import EXIT_STOPPED

_ECHO_SECONDS = 2.0  # Ctrl-C reaches a rank from the terminal and again from torchrun
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Listens for the signals while it is entered; `received` is the first that came. Only in the main thread."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._since = 0.0
        self._previous: dict[int, signal._HANDLER] = {}

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, as shells have it; else 75."""
        return 128 + signal.SIGINT if self.received == signal.SIGINT else EXIT_STOPPED

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._since > _ECHO_SECONDS:
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)
