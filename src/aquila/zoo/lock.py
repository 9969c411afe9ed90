"""One pull at a time for one folder, across processes and threads.

POSIX advisory locks: the kernel frees them when a process dies, so a killed pull never leaves a stale lock.
"""

import fcntl
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_lock(path: Path, on_wait: Callable[[str], None]) -> Generator[None]:
    """Holds the lock file `path` during the block. If someone else has it, `on_wait` hears who, and we wait.

    The lock file itself stays: removing it would let a third process lock a new file of the same name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            on_wait(f"process {file.read().strip() or '?'} is pulling this model already; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
