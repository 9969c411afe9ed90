"""Runs on each machine of a launch: starts one command, says its pid, and ends it when the launcher says so or is gone.

    python -m aquila.launch.node COMMAND...

stdin: `stop` sends SIGTERM to the command, `kill` ends it and what it started; the end of stdin (the launcher died, or
its ssh connection did) is a `stop` too. The first line of stdout is `aquila-node PID`, the rest is the command's own
output. Only processes that descend from the command are ever touched.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
GRACE_SECONDS = 630.0  # after `stop`: torchrun gives its ranks ten minutes to save


def main(command: list[str]) -> int:
    """Runs `command` to its end and returns its exit code (128 + number after a signal).

    What the command leaves behind, as torchrun does when it is killed itself, is ended with it.
    """
    _adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave_it_to_stdin)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    sys.stdout.write(f"aquila-node {process.pid}\n")
    sys.stdout.flush()
    threading.Thread(target=_obey, args=(process,), daemon=True).start()
    code = process.wait()
    for orphan in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _adopt_orphans() -> None:
    """Makes this process the parent of all below it whose own parent dies. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Asks the kernel for SIGTERM when the parent of this process dies, however it dies. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _leave_it_to_stdin(number: int, frame: object) -> None:
    """Whoever wants the run to end tells the launcher, which tells every machine."""


def _obey(process: subprocess.Popen[bytes]) -> None:
    for line in sys.stdin:
        if line.strip() == "kill":
            kill_tree(process.pid)
            return
        if line.strip() == "stop":
            process.terminate()
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        kill_tree(process.pid)


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and all that descend from it, the newest last, so that nobody restarts anybody."""
    tree = [pid, *descendants(pid)]
    for each in tree:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def descendants(pid: int, root: Path = Path("/proc")) -> list[int]:
    """Processes below `pid`, parents before children; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in root.glob("[0-9]*/stat"):
        try:
            fields = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found = [pid]
    for each in found:  # grows while it is walked
        found += children.get(each, [])
    return found[1:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
