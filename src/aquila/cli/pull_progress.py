"""Progress bars of `aquila pull`: bytes, speed and time left of each file; retries and waits above them."""

from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from aquila.zoo.progress import Progress as PullReport


class PullProgress(PullReport):
    """Use as a context: the bars live inside it."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
        columns += (TransferSpeedColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)  # a log wants no bars
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def start(self, name: str, total_bytes: int | None, done_bytes: int) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total_bytes)
        self._bars.update(self._tasks[name], total=total_bytes, completed=done_bytes)

    def update(self, name: str, done_bytes: int) -> None:
        self._bars.update(self._tasks[name], completed=done_bytes)

    def say(self, message: str) -> None:
        self._bars.console.print(message, markup=False, highlight=False, soft_wrap=True)
