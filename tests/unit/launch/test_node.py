"""The program on each machine: it ends what it started, all of it, and nothing else."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aquila.launch.node import descendants

# Says its pid and that of a child of its own, then waits to be ended; SIGTERM is an end with code 7.
COMMAND = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
child = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"])
print(child.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def node():
    """A started node program with the pids of its command and of that one's child."""
    process = subprocess.Popen(
        [sys.executable, "-m", "aquila.launch.node", sys.executable, "-S", "-c", COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    first = process.stdout.readline().split()
    assert first[0] == "aquila-node"
    pids = int(first[1]), int(process.stdout.readline())
    yield process, *pids
    process.kill()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stdin.close()


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"


def test_stop_is_a_polite_request(node):
    process, _, _ = node
    process.stdin.write("stop\n")
    process.stdin.flush()
    assert process.wait(30) == 7


def test_a_launcher_that_died_is_a_stop(node):
    process, _, _ = node
    process.stdin.close()
    assert process.wait(30) == 7


def test_kill_takes_the_children_along(node):
    process, command, child = node
    process.stdin.write("kill\n")
    process.stdin.flush()
    assert process.wait(30) == 128 + 9
    assert not is_running(command)
    assert not is_running(child)


def test_what_a_killed_command_leaves_behind_is_ended(node):
    """As the ranks of a torchrun that was killed: they would go on training beside the next start."""
    process, command, child = node
    os.kill(command, signal.SIGKILL)
    assert process.wait(30) == 128 + 9
    assert not is_running(child)


def test_descendants_are_found_parents_first(node):
    process, command, child = node
    assert descendants(process.pid) == [command, child]
    assert descendants(child) == []


def test_a_command_that_ends_by_itself_gives_its_code():
    command = [sys.executable, "-S", "-c", "print('hello'); raise SystemExit(3)"]
    with subprocess.Popen(
        [sys.executable, "-m", "aquila.launch.node", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.read().splitlines()[1] == "hello"
        assert process.wait() == 3
