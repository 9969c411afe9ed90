"""Which promises of the sandbox hold on this machine: each is tried by a program inside it, none is assumed."""

import json
import os
import socket
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquila.errors import SandboxError
from aquila.sandbox.box import Sandbox
from aquila.sandbox.inside import values
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.job import MIB, Job, Limits, Outcome, PythonStep, Step
from aquila.sandbox.running import Running

_SOURCE = Path(__file__).parent / "inside" / "probes.py"
_LIMITS = Limits(wall_seconds=20, memory_bytes=256 * MIB, max_processes=16, file_bytes=16 * MIB)
_DISK_BYTES = 48 * MIB


@dataclass(frozen=True)
class Guarantee:
    """A promise. `holds` is what was found, `why` what it was found by."""

    name: str
    holds: bool
    why: str


@dataclass(frozen=True)
class _Host:
    """Things of the host that a sandboxed program shall not reach."""

    secret: Path
    port: int
    abstract_name: str


def examine(isolation: Isolation) -> list[Guarantee]:
    """Tries every promise in a sandbox of this kind.

    Raises:
        SandboxError: it does not start, or a probe could not be run.
    """
    with Sandbox(isolation) as sandbox, _host() as host:
        found = [Guarantee(name, *check(_Prober(sandbox), host)) for name, check in _CHECKS.items()]
        return [*found, *(Guarantee(name, *check(sandbox)) for name, check in _RUNS.items())]


class _Prober:
    """Calls the functions of probes.py, each in a job of its own."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def __call__(self, name: str, *arguments: object) -> Any:
        step = PythonStep(_SOURCE.read_text(encoding="utf-8"), "probe", _LIMITS)
        running = self.sandbox.start(Job([step], disk_bytes=_DISK_BYTES))
        try:
            answer = self._ask(running, [name, *arguments])
        except EOFError:
            answer = None
        finally:
            (outcome,) = running.finish()
        return None if outcome.status == "disk" else answer

    def _ask(self, running: Running, arguments: list[object]) -> Any:
        running.ask(b"", 10, 1 << 16)
        answer = running.ask(values.to_json((arguments, {})).encode() + b"\n", 15, 1 << 16)
        reply = json.loads(answer)
        if "ok" not in reply:
            raise SandboxError(f"the probe {arguments[0]} failed inside: {reply}")
        return values.decode(reply["ok"])


@contextmanager
def _host() -> Generator[_Host]:
    name = f"aquila-probe-{os.getpid()}"
    with (
        tempfile.NamedTemporaryFile(prefix="aquila-secret-") as secret,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        os.chmod(secret.name, 0o644)
        abstract.bind("\0" + name)
        abstract.listen()
        yield _Host(Path(secret.name), server.getsockname()[1], name)


Finding = tuple[bool, str]


def _identity(probe: _Prober, host: _Host) -> Finding:
    uid, capabilities, no_new_privileges, seccomp = probe("identity")
    holds = uid not in (0, *(() if os.geteuid() else (os.geteuid(),))) and not capabilities
    holds = holds and bool(no_new_privileges) and seccomp == 2
    words = f"uid {uid}, {'no' if not capabilities else 'some'} capabilities"
    return holds, f"{words}, no_new_privs {no_new_privileges}, seccomp mode {seccomp}"


def _reading(probe: _Prober, host: _Host) -> Finding:
    found = {path: probe("reads", path) for path in (str(host.secret), "/etc/shadow", "/etc/passwd")}
    return _refusals(found, "opened")


def _writing(probe: _Prober, host: _Host) -> Finding:
    return _refusals(
        {folder: probe("writes", folder) for folder in ("/", "/usr", "/dev", "/etc", "/var/tmp")}, "written"
    )


def _processes(probe: _Prober, host: _Host) -> Finding:
    reply = probe("signals", os.getpid())
    return reply is not None, f"a signal to process {os.getpid()} of the host: {reply or 'sent'}"


def _network(probe: _Prober, host: _Host) -> Finding:
    found = {
        f"127.0.0.1:{host.port} of the host": probe("connects", host.port),
        "an abstract socket of the host": probe("connects_abstract", host.abstract_name),
    }
    made = probe("families", [16, 17, 40])
    holds, why = _refusals(found, "connected")
    return holds and not made, why + (f"; socket families {made} can be made" if made else "; no rare socket families")


def _kernel(probe: _Prober, host: _Host) -> Finding:
    reached = probe("kernel_calls")
    return (
        not reached,
        f"reached: {', '.join(reached)}" if reached else "keyctl, bpf, io_uring, userfaultfd, ... refused",
    )


def _memory(probe: _Prober, host: _Host) -> Finding:
    refused = probe("allocate", 2 * _LIMITS.memory_bytes) is None
    return refused, f"{2 * _LIMITS.memory_bytes >> 20} MiB under a limit of {_LIMITS.memory_bytes >> 20}: " + (
        "MemoryError" if refused else "given"
    )


def _forks(probe: _Prober, host: _Host) -> Finding:
    started = probe("fork", 100)
    return started <= _LIMITS.max_processes + 4, f"{started} of 100 processes started under {_LIMITS.max_processes}"


def _disk(probe: _Prober, host: _Host) -> Finding:
    written = probe("fill", ".", 16 * _DISK_BYTES)
    if written is None:
        return (
            True,
            f"a program that writes {16 * _DISK_BYTES >> 20} MiB under {_DISK_BYTES >> 20} was ended on the way",
        )
    return written <= _DISK_BYTES, f"{written >> 20} MiB written under a limit of {_DISK_BYTES >> 20}"


def _inherited(probe: _Prober, host: _Host) -> Finding:
    names, descriptors = probe("environment"), probe("descriptors")
    extra = [name for name in names if name not in ("HOME", "LANG", "LC_CTYPE", "PATH", "TMPDIR", "PYTHONHASHSEED")]
    # 0, 1, 2, and those that the worker took its calls from and answers on
    holds = not extra and len(descriptors) <= 5
    return holds, f"environment {' '.join(names)}; descriptors {' '.join(map(str, descriptors))}"


def _refusals(found: dict[str, str | None], otherwise: str) -> Finding:
    holds = all(reply is not None for reply in found.values())
    return holds, ", ".join(f"{what}: {reply or otherwise}" for what, reply in found.items())


def _run(sandbox: Sandbox, script: str, limits: Limits) -> Outcome:
    return sandbox.run(Job([Step(["sh", "-c", script], limits)]))[-1]


def _output(sandbox: Sandbox) -> Finding:
    outcome = _run(sandbox, "yes", Limits(wall_seconds=10, output_bytes=1 << 16))
    return outcome.status == "output_limit", f"endless output: {outcome.status} after {outcome.seconds:.2f} s"


def _time(sandbox: Sandbox) -> Finding:
    outcome = _run(sandbox, "trap '' TERM INT; while :; do :; done", Limits(wall_seconds=0.2))
    return outcome.status == "timeout", f"endless loop, limit 0.2 s: {outcome.status} after {outcome.seconds:.2f} s"


def _leftovers(sandbox: Sandbox) -> Finding:
    """A daemon keeps the write end of stdout open: its end is seen on our side."""
    outcome = _run(
        sandbox, "(setsid sh -c 'sleep 1000' </dev/null >/dev/null 2>&1 &) ; echo done", Limits(wall_seconds=5)
    )
    return outcome.ok, "a daemon that was left behind ended with its job" if outcome.ok else outcome.status


_CHECKS: dict[str, Callable[[_Prober, _Host], Finding]] = {
    "no privileges": _identity,
    "files of the host cannot be read": _reading,
    "nothing is written outside": _writing,
    "processes of the host are out of reach": _processes,
    "no network": _network,
    "rare kernel interfaces are closed": _kernel,
    "memory is limited": _memory,
    "processes are limited": _forks,
    "disk use is limited": _disk,
    "nothing is inherited": _inherited,
}
_RUNS: dict[str, Callable[[Sandbox], Finding]] = {
    "output is limited": _output,
    "time is limited": _time,
    "nothing is left running": _leftovers,
}
