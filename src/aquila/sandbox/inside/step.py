"""One step of a job: a program, or a function of worker.py, within limits, watched until it ends or is ended."""

import contextlib
import os
import resource
import select
import signal
import time
from typing import Any, NoReturn

from aquila.sandbox.inside import kernel, landlock, worker
from aquila.sandbox.inside.place import Surroundings

_TICK_SECONDS = 0.05  # from one look at what all processes hold to the next
_OWN_PROCESSES = 4  # that count against the limit of processes: bwrap's, warden, init, and one to spare
_STACK_BYTES = 8 << 20
_PATH = "/usr/local/bin:/usr/bin:/bin"


def run(plan: dict[str, Any], streams: list[int], leash: int, surroundings: Surroundings) -> dict[str, Any]:
    """Runs a step to its end, and leaves no process of it.

    Args:
        plan: `argv` or `worker`, `environment`, `limits`.
        streams: stdin, stdout and stderr; closed here once the step has them.
        leash: the host closes its end to have the step ended.
        surroundings: of the job.

    Returns:
        status (`exited`, `timeout`, `memory`, `disk`, `cancelled`), code (negative: the signal), seconds, cpu_seconds,
        peak_bytes of the largest process.
    """
    limits = plan["limits"]
    started, used = time.monotonic(), _cpu_seconds()
    complaints, complain = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(plan, streams, complain, surroundings)
    for descriptor in (*streams, complain):
        os.close(descriptor)
    status = _watch(pid, leash, started + limits["wall_seconds"], limits["total_memory_bytes"], surroundings)
    code, peak = _end(pid, surroundings)
    if status in ("exited", "cancelled") and surroundings.is_full():  # it was faster than the next look
        status = "disk"
    with open(complaints, "rb") as file:
        complaint = file.read().decode()
    if complaint:
        raise OSError(complaint)
    return {
        "status": status,
        "code": code,
        "seconds": time.monotonic() - started,
        "cpu_seconds": _cpu_seconds() - used,
        "peak_bytes": peak,
    }


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _watch(pid: int, leash: int, deadline: float, memory_bytes: int, surroundings: Surroundings) -> str:
    process = kernel.open_pidfd(pid)
    poller = select.poll()
    poller.register(process, select.POLLIN)
    poller.register(leash, select.POLLIN)
    try:
        while (left := deadline - time.monotonic()) > 0:
            events = dict(poller.poll(min(left, _TICK_SECONDS) * 1000))
            if process in events:
                return "exited"
            if leash in events:
                return "cancelled"
            if not events and _total_memory(surroundings) > memory_bytes:
                return "memory"
            if not events and surroundings.is_full():
                return "disk"
        return "timeout"
    finally:
        os.close(process)


def _end(pid: int, surroundings: Surroundings) -> tuple[int, int]:
    """Kills whatever is left of the step; exit code and peak memory of its main process."""
    if surroundings.alone:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)  # everything in this pid namespace but its process 1, at once
        return _reap(pid)
    main = None
    while main is None:  # kill first, then look: a child that ended keeps its number until it is waited for
        for other in _descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(other, signal.SIGKILL)
        ended, status, usage = os.wait4(-1, 0)
        if ended == pid:
            main = os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
    end_descendants()
    return main


def _reap(pid: int) -> tuple[int, int]:
    main = (0, 0)
    while True:
        try:
            ended, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return main
        if ended == pid:
            main = os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024


def end_descendants() -> None:
    """Kills and waits until none is left; new ones cannot outrun it for long, their number is limited."""
    while True:
        for pid in _descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _descendants(top: int) -> list[int]:
    found: list[int] = []
    waiting = [top]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                    children = [int(word) for word in file.read().split()]
                found += children
                waiting += children
    return found


def _total_memory(surroundings: Surroundings) -> int:
    """Bytes that all processes of the step hold, shared pages counted by share where that matters."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"] if surroundings.alone else None
    pids = _descendants(os.getpid()) if pids is None else pids
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            held = _field_bytes(f"/proc/{pid}/status", "RssAnon:", "RssShmem:")
            if len(pids) > 1:
                with contextlib.suppress(OSError):  # one that hides its pages counts in full
                    held = min(held, _field_bytes(f"/proc/{pid}/smaps_rollup", "Pss_Anon:", "Pss_Shmem:") or held)
            total += held
    return total


def _field_bytes(path: str, *names: str) -> int:
    with open(path, encoding="ascii", errors="replace") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith(names))


def _become(plan: dict[str, Any], streams: list[int], complain: int, surroundings: Surroundings) -> NoReturn:
    """Turns this process into the step. What fails before it starts is told to init through `complain`."""
    try:
        os.setsid()
        kernel.die_with_parent()
        for number, descriptor in enumerate(streams):  # received beside the control socket, so they lie above 3
            os.dup2(descriptor, number)
        os.dup2(complain, 3, inheritable=False)
        kernel.close_from(4)
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # Python had set its own
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o022)
        os.chdir(surroundings.work)
        _limit(plan["limits"], surroundings)
        if surroundings.mode == "landlock":
            folders = [surroundings.work, surroundings.temporary]
            landlock.restrict(surroundings.landlock_abi, surroundings.readable, folders)
        kernel.forbid_new_privileges()
        if surroundings.filter:
            kernel.install_filter(surroundings.filter)
        _start(plan, _environment(plan["environment"], surroundings))
    except BaseException as error:  # noqa: BLE001  this process must not go on as another init
        os.write(3, f"the step could not start: {type(error).__name__}: {error}".encode())
    os._exit(127)


def _environment(own: dict[str, str], surroundings: Surroundings) -> dict[str, str]:
    home = surroundings.temporary
    own = {name: value.replace("{tmp}", home) for name, value in own.items()}
    return {"PATH": _PATH, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", **own}


def _start(plan: dict[str, Any], environment: dict[str, str]) -> None:
    if "argv" in plan:
        os.execvpe(plan["argv"][0], plan["argv"], environment)
    kernel.set_dumpable(True)  # its memory is counted by share, which asks for that
    os.environ.update(environment)
    call = plan["worker"]
    os.close(3)
    try:
        if call["kind"] == "calls":
            worker.answer_calls(call["source"], call["entry_point"])
        else:
            worker.run_program(call["source"])
        os._exit(0)
    finally:
        os._exit(1)


def _limit(limits: dict[str, Any], surroundings: Surroundings) -> None:
    processes = limits["max_processes"] + (_OWN_PROCESSES if surroundings.alone else _threads_of_user())
    values = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_DATA: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["max_files"],
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_STACK: _STACK_BYTES,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 1024,
    }
    for kind, value in values.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def _threads_of_user() -> int:
    """Threads on this machine that count against the limit of this process's user."""
    count, user = 0, os.getuid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == user:
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count
