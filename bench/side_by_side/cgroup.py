"""A memory cgroup for one side: what the process and the page cache it fills may take together. Linux, as root."""

import os
from contextlib import suppress
from pathlib import Path

from side_by_side.worker import SideError

_ROOT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """Version 1 or 2, whichever the machine has. Processes started with `prefix` run inside from their first byte on.

    Raises:
        SideError: none can be made here.
    """

    def __init__(self, name: str, limit_bytes: int) -> None:
        self._second = (_ROOT / "cgroup.controllers").is_file()
        parent = _ROOT if self._second else _ROOT / "memory"
        self.path = parent / f"aquila-bench-{os.getpid()}-{name}"
        try:
            if self._second:
                (parent / "cgroup.subtree_control").write_text("+memory", encoding="utf-8")
            self.path.mkdir()
            self._write("memory.max" if self._second else "memory.limit_in_bytes", limit_bytes)
            if self._second:
                self._write("memory.swap.max", 0)
        except OSError as error:
            self.close()
            raise SideError(f"no memory cgroup can be made here ({error}); run as root on Linux") from error

    @property
    def prefix(self) -> list[str]:
        """What a command is put behind to run in the group."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.path / "cgroup.procs")]

    @property
    def peak_bytes(self) -> int:
        return int(self._read("memory.peak" if self._second else "memory.max_usage_in_bytes"))

    @property
    def refusals(self) -> int:
        """Times that the group was full and something had to be thrown out first (`failcnt`)."""
        if not self._second:
            return int(self._read("memory.failcnt"))
        events = dict(line.split() for line in self._read("memory.events").splitlines())
        return int(events["max"])

    def close(self) -> None:
        with suppress(OSError):  # never made
            self.path.rmdir()

    def _read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def _write(self, name: str, value: int) -> None:
        (self.path / name).write_text(str(value), encoding="utf-8")


def forget_cached(path: Path) -> None:
    """Drops a file from the page cache: pages that lie there already would count for nobody."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
