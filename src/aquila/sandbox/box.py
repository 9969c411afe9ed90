"""A sandbox seen from outside: a first process behind walls, kept ready, that runs one job after another.

    with Sandbox(find_isolation()) as sandbox:
        (outcome,) = sandbox.run(Job([Step(["cat", "hello.txt"])], {"hello.txt": "你好"}))

Starting one takes some 50 ms, a job in it a few. One sandbox runs one job at a time.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from aquila.errors import SandboxError
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.job import Job, Outcome
from aquila.sandbox.launcher import BWRAP_ROOT, NOBODY
from aquila.sandbox.running import Running
from aquila.sandbox.seccomp import build_filter

_INSIDE = Path(__file__).parent / "inside"
_START = "import sys; sys.path.insert(0, sys.argv[1]); from aquila.sandbox.launcher import main; main(sys.argv[2])"
_START_SECONDS = 30.0
_STAGES = ("/mnt", "/media", "/srv")
_SETTLE_SECONDS = 10.0  # after a job's report, until the sandbox says that nothing of it is left


class Sandbox:
    """A first process and the socket to it. Use it as a context, or call `close`.

    Args:
        isolation: which walls, as `find_isolation` says.
        binds: folders that jobs may read, by the name that `inside` gives the path of.

    Raises:
        SandboxError: it did not come up.
    """

    def __init__(self, isolation: Isolation, *, binds: Mapping[str, Path] | None = None) -> None:
        self.isolation = isolation
        prefix, self._python = _interpreter()
        self._binds = {"python": prefix, "code": _INSIDE, **(binds or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._folders: list[str] = []
        self._stage: str | None = None
        self._complaints: BinaryIO | None = None
        self._start()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def inside(self, name: str) -> str:
        """The path that a bound folder has for a job."""
        if self.isolation.mode == "namespaces":
            return f"/opt/{name}"
        return f"{self._stage}/{name}" if self._stage else str(self._binds[name])

    @property
    def python(self) -> str:
        """The interpreter's path for a job."""
        return f"{self.inside('python')}/{self._python}"

    def run(self, job: Job) -> list[Outcome]:
        """Runs a job to its end. One outcome for each step that was started.

        Raises:
            SandboxError: the sandbox itself failed; what came out says nothing about the job.
        """
        return self.start(job).finish()

    def start(self, job: Job) -> Running:
        """Starts a job that can be talked to."""
        if self._process is not None and self._process.poll() is not None:  # ended between jobs, for want of memory say
            self.close()
        if self._process is None:
            self._start()
        assert self._control is not None, "set together with the process"
        return Running(job, self._control, on_end=self._settle)

    def close(self) -> None:
        """Ends the first process and with it whatever it runs, and removes its folders."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._end_process(self._process)
            self._process = None
        if self._complaints is not None:
            self._complaints.close()
            self._complaints = None
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        self._folders.clear()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  `close` closes it
        self._stage = self._find_stage() if self.isolation.stage else None
        with theirs:
            command = [sys.executable, "-I", "-S", "-c", _START, str(Path(__file__).parents[2])]
            self._process = subprocess.Popen(
                [*command, json.dumps(self._order(theirs.fileno()))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._complaints,
                pass_fds=[theirs.fileno()],
                cwd="/",
            )
        ours.settimeout(_START_SECONDS)
        try:
            ours.send(json.dumps(self._settings()).encode())
            ready = ours.recv(16)
        except OSError as error:
            ready = str(error).encode()
        if ready != b"ready":
            complaint = self._complaint()
            self.close()
            raise SandboxError(f"the sandbox did not start: {complaint or 'no reason was given'}")

    def _order(self, control: int) -> dict[str, Any]:
        if self.isolation.mode != "namespaces":
            self._binds["scratch"] = self._make_scratch()
        bwrap = self.isolation.bwrap
        if bwrap is not None and self._stage is not None and not bwrap.is_relative_to("/usr"):
            self._binds[BWRAP_ROOT] = bwrap.parents[2]
        return {
            "mode": self.isolation.mode,
            "binds": [[str(source), name] for name, source in self._binds.items()],
            "stage": self._stage,
            "python": self._python,
            "bwrap": str(bwrap),
            "control": control,
        }

    def _settings(self) -> dict[str, Any]:
        mode, abi = self.isolation.mode, self.isolation.landlock_abi
        settings: dict[str, Any] = {"mode": mode, "filter": "", "landlock_abi": abi}
        if mode == "namespaces":
            return settings | {"filter": build_filter("namespaces").hex()}
        scratch = self.inside("scratch")
        readable = [self.inside(name) for name in self._binds if name != "scratch"]
        settings |= {"scratch": scratch, "readable": readable}
        if mode == "landlock":
            settings["filter"] = build_filter("host", scoped_signals=self.isolation.scopes_signals).hex()
        return settings

    def _find_stage(self) -> str:
        """A folder that everybody may enter, to be covered where only the sandbox's first process sees it."""
        for folder in _STAGES:
            if os.path.isdir(folder):
                return folder
        folder = tempfile.mkdtemp(prefix="aquila-stage-", dir="/tmp")
        self._folders.append(folder)
        return folder

    def _make_scratch(self) -> Path:
        folder = tempfile.mkdtemp(prefix="aquila-sandbox-")
        self._folders.append(folder)
        if os.geteuid() == 0 and self.isolation.mode != "none":
            os.chown(folder, NOBODY, NOBODY)
        return Path(folder)

    def _settle(self) -> None:
        """Waits until nothing of the last job is left; a sandbox that does not get there is given up."""
        assert self._control is not None, "a job was running"
        self._control.settimeout(_SETTLE_SECONDS)
        try:
            done = self._control.recv(16)
        except OSError:
            done = b""
        if done != b"done":
            complaint = self._complaint()
            self.close()
            raise SandboxError(f"the sandbox ended during a job: {complaint or 'no reason was given'}")

    def _complaint(self) -> str:
        if self._complaints is None:
            return ""
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _end_process(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
        if process.poll() is None:
            for pid in [*_children(process.pid), process.pid]:  # the first process of the namespace goes with all in it
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return []


def _interpreter() -> tuple[Path, str]:
    """The installation that runs us, and the path of the program below it."""
    prefix, program = Path(sys.base_prefix).resolve(), Path(sys.executable).resolve()
    if not program.is_relative_to(prefix):
        raise SandboxError(f"Python's program {program} is not below its prefix {prefix}: use an ordinary installation")
    return prefix, str(program.relative_to(prefix))
