"""Jobs in a running sandbox, of each kind: what comes out, what ends them, and that nothing is left."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aquila.errors import SandboxError
from aquila.sandbox.box import Sandbox
from aquila.sandbox.isolation import find_isolation
from aquila.sandbox.job import MIB, Job, Limits, PythonStep, Step
from aquila.sandbox.running import CallTimeoutError, OutputLimitError

DEFAULT = Limits()
QUICK = Limits(wall_seconds=0.3)


def shell(sandbox: Sandbox, script: str, limits: Limits = DEFAULT, **job):
    return sandbox.run(Job([Step(["sh", "-c", script], limits)], **job))[-1]


def test_a_program_gets_its_files_stdin_and_environment(sandbox: Sandbox):
    step = Step(
        ["sh", "-c", "cat a/b.txt data; cat; echo $X >&2; exit 7"], environment={"X": "世界"}, stdin=b"in" * 9999
    )
    (outcome,) = sandbox.run(Job([step], {"a/b.txt": "你好\n", "data": b"\xff\x00"}))
    assert (outcome.status, outcome.code) == ("exited", 7)
    assert outcome.stdout == "你好\n".encode() + b"\xff\x00" + b"in" * 9999
    assert outcome.stderr == "世界\n".encode()
    assert outcome.peak_bytes > MIB


def test_steps_share_the_folder_and_stop_at_the_first_that_fails(sandbox: Sandbox):
    steps = [Step(["sh", "-c", script]) for script in ("echo one > made", "cat made; false", "echo never")]
    outcomes = sandbox.run(Job(steps))
    assert [(outcome.code, outcome.stdout) for outcome in outcomes] == [(0, b""), (1, b"one\n")]


def test_nothing_of_a_job_is_there_in_the_next(sandbox: Sandbox):
    outcome = shell(sandbox, "echo secret > kept; mkdir -m 0 shut; echo secret > $TMPDIR/kept; chmod 000 .")
    assert outcome.ok or (sandbox.isolation.mode == "landlock" and outcome.status == "disk")  # shut: may hide anything
    assert b"kept" not in shell(sandbox, "ls -AR . $TMPDIR").stdout


@pytest.mark.parametrize(
    "script", ["sleep 100", "while :; do :; done", "trap '' TERM INT HUP; while :; do sleep 1; done"]
)
def test_time_is_up(sandbox: Sandbox, script: str):
    outcome = shell(sandbox, script, QUICK)
    assert outcome.status == "timeout"
    assert outcome.code == -signal.SIGKILL


@pytest.mark.parametrize("script", ["yes", "yes >&2"])
def test_endless_output_is_cut_and_ends_the_program(sandbox: Sandbox, script: str):
    outcome = shell(sandbox, script, Limits(output_bytes=5000))
    assert outcome.status == "output_limit"
    assert outcome.stdout + outcome.stderr == b"y\n" * 2500


def test_a_daemon_ends_with_its_job(sandbox: Sandbox):
    """It holds no pipe of ours, has a session of its own, and is nobody's child."""
    mark = f"3{os.getpid()}"
    assert shell(sandbox, f"(setsid sleep {mark} </dev/null >/dev/null 2>&1 &); sleep 0.05; echo done").ok
    assert mark not in subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=True).stdout


def test_a_fork_bomb_stays_within_the_limit_and_is_gone_afterwards(sandbox: Sandbox):
    source = """
import os, time
started = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(100)
        started += 1
except OSError:
    print(started)
"""
    step = Step([sandbox.python, "-S", "main.py"], Limits(wall_seconds=20, max_processes=10))
    (outcome,) = sandbox.run(Job([step], {"main.py": source}))
    assert 5 <= int(outcome.stdout) <= 14
    assert shell(sandbox, "echo still here").stdout == b"still here\n"


def test_memory_of_all_processes_together_is_limited(sandbox: Sandbox):
    source = "import os, time\nfor _ in range(5): os.fork()\nblock = bytearray(b'x') * (60 << 20)\ntime.sleep(100)\n"
    limits = Limits(wall_seconds=30, memory_bytes=100 * MIB, total_memory_bytes=200 * MIB, max_processes=40)
    (outcome,) = sandbox.run(Job([Step([sandbox.python, "-S", "main.py"], limits)], {"main.py": source}))
    assert outcome.status == "memory"


def test_memory_of_one_process_is_limited(sandbox: Sandbox):
    step = Step([sandbox.python, "-S", "-c", "bytearray(300 << 20)"], Limits(memory_bytes=100 * MIB))
    (outcome,) = sandbox.run(Job([step]))
    assert outcome.code == 1
    assert b"MemoryError" in outcome.stderr


def test_a_program_that_is_not_there_says_nothing_about_the_sample(sandbox: Sandbox):
    with pytest.raises(SandboxError, match=r"could not run a step: .*No such file or directory"):
        sandbox.run(Job([Step(["/usr/bin/no-such-program"])]))
    assert shell(sandbox, "true").ok


def test_calls_are_answered_one_by_one(sandbox: Sandbox):
    source = "import sys\ndef f(x):\n    print('noise', x, file=sys.stderr)\n    return [x] * (1000 * x + 1)\n"
    running = sandbox.start(Job([PythonStep(source, "f", Limits(output_bytes=100))]))
    assert running.ask(b"", 20, 100) == b'{"ready": true}'
    assert running.ask(b'[[0], {"d": []}]\n', 20, 100) == b'{"ok": [0]}'
    with pytest.raises(OutputLimitError):
        running.ask(b'[[1], {"d": []}]\n', 20, 100)
    (outcome,) = running.finish()
    assert outcome.status == "output_limit"
    assert outcome.stderr == b"noise 0\nnoise 1\n"


def test_a_call_that_takes_too_long_can_be_given_up(sandbox: Sandbox):
    running = sandbox.start(Job([PythonStep("def f():\n    while True: pass\n", "f")]))
    running.ask(b"", 20, 100)
    with pytest.raises(CallTimeoutError):
        running.ask(b'[[], {"d": []}]\n', 0.05, 100)
    running.cancel()
    assert running.finish()[0].status == "cancelled"
    assert shell(sandbox, "true").ok


def test_no_descriptor_and_no_variable_of_the_host_is_inherited(sandbox: Sandbox, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("AQUILA_TEST_SECRET", "hunter2")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        source = "import os\nprint(sorted(os.environ), [n for n in range(256) if os.path.exists(f'/proc/self/fd/{n}')])"
        if sandbox.isolation.mode == "landlock":
            source = "import os\nprint(sorted(os.environ))"
        with Sandbox(sandbox.isolation) as fresh:
            (outcome,) = fresh.run(Job([Step([fresh.python, "-I", "-S", "main.py"])], {"main.py": source}))
    assert b"hunter2" not in outcome.stdout
    assert b"AQUILA" not in outcome.stdout
    if sandbox.isolation.mode == "namespaces":
        assert outcome.stdout.endswith(b" [0, 1, 2]\n")


def test_many_files_end_at_the_limit_of_inodes(namespaces: Sandbox):
    source = (
        "n = 0\ntry:\n    while True: open(f'f{n}', 'w').close(); n += 1\nexcept OSError as e: print(n, e.strerror)"
    )
    job = Job([Step([namespaces.python, "-S", "main.py"])], {"main.py": source}, max_inodes=200)
    assert namespaces.run(job)[0].stdout.split(b" ", 1)[1] == b"No space left on device\n"


def test_disk_is_limited(sandbox: Sandbox):
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do head -c 4000000 /dev/zero > f$i || exit 3; done"
    outcome = shell(sandbox, script, disk_bytes=16 * MIB)
    if sandbox.isolation.mode == "namespaces":
        assert (outcome.status, outcome.code) == ("exited", 3)
    else:
        assert outcome.status == "disk"  # ended while it wrote, or found too full when it ended


def test_no_core_is_dumped(sandbox: Sandbox):
    outcome = shell(sandbox, "ulimit -c; ulimit -c unlimited; kill -ABRT $$")
    assert outcome.stdout == b"0\n"


def test_the_sandbox_goes_when_its_owner_is_killed(tmp_path: Path):
    """kill -9 of the host's process: the first process, the job in it and the mounts go."""
    find_isolation()
    mark = f"4{os.getpid()}"
    program = (
        "from aquila.sandbox.box import Sandbox\nfrom aquila.sandbox.isolation import find_isolation\n"
        "from aquila.sandbox.job import *\nwith Sandbox(find_isolation()) as sandbox:\n"
        f"    step = Step(['sh', '-c', 'echo up; sleep {mark}'], Limits(60), interactive=True)\n"
        "    running = sandbox.start(Job([step]))\n"
        "    running.ask(b'', 30, 100)\n    print('up', flush=True)\n    running.finish()\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"up\n"
    owner.kill()
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 20
    while any(mark in args for args in _arguments()):
        assert time.monotonic() < deadline, "the job outlived its owner"


def _arguments() -> list[str]:
    return subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_closed_sandbox_leaves_no_folder_and_no_process(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tmp_path.chmod(0o755)
    with Sandbox(find_isolation()) as sandbox:
        shell(sandbox, "echo x > file")
        assert sandbox._process is not None
        pid = sandbox._process.pid
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_limits_of_the_host_that_are_lower_are_kept(namespaces: Sandbox):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcome = shell(namespaces, "ulimit -n", Limits(max_files=(1 << 20)))
    assert int(outcome.stdout) <= max(hard, 256)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
