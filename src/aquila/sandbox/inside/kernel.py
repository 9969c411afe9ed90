"""What the sandbox asks of Linux and Python's library does not offer. Sources: the man pages of the calls named.

This folder runs inside the sandbox: it imports the standard library and itself, nothing else. Numbers are those of
x86_64 and aarch64 alike unless a table says otherwise. A call that fails raises `OSError`.
"""

import ctypes
import os
import platform
import stat
import struct
import sys

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID = 0x00020000, 0x08000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
_SIGCHLD = 17
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}
_SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_SYS_CLOSE_RANGE = 436
_SYS_PIDFD_OPEN = 434
_SYS_LANDLOCK_CREATE, _SYS_LANDLOCK_ADD, _SYS_LANDLOCK_RESTRICT = 444, 445, 446
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER = 1, 4, 24, 36
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_SECCOMP_SET_MODE_FILTER = 1
_LANDLOCK_ABI = 1  # the flag that asks for the version
_LANDLOCK_PATH_BENEATH = 1
_LANDLOCK_OF_FILES = 0b1100_0000_0000_0111  # EXECUTE, WRITE_FILE, READ_FILE, TRUNCATE, IOCTL_DEV; the rest are folders'

if sys.platform == "linux":  # elsewhere nothing here is called, but this can be imported
    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _call(number: int, *arguments: int | bytes | None, what: str) -> int:
    words = [value if isinstance(value, bytes) or value is None else ctypes.c_long(value) for value in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *words), what)


def _prctl(option: int, *arguments: int, what: str) -> int:
    words = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    return _check(_libc.prctl(ctypes.c_int(option), *words), what)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    words = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _check(_libc.mount(*words), f"mount {kind or source} on {target}")


def unmount(target: str) -> None:
    _check(_libc.umount2(target.encode(), ctypes.c_int(MNT_DETACH)), f"unmount {target}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def fork_into(namespaces: int) -> int:
    """`os.fork` into new namespaces: 0 in the child. Only for a process of one thread; the child shall `os.fork` before
    it runs anything that asks libc for its own thread id.
    """
    return _call(_SYS_CLONE[platform.machine()], namespaces | _SIGCHLD, 0, 0, 0, 0, what="clone")


def open_pidfd(pid: int) -> int:
    return _call(_SYS_PIDFD_OPEN, pid, 0, what="pidfd_open")


def close_from(first: int) -> None:
    _call(_SYS_CLOSE_RANGE, first, 0xFFFFFFFF, 0, what="close_range")


def die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, 9, what="set the parent's death signal")


def set_dumpable(dumpable: bool) -> None:
    """A process that is not dumpable cannot be read, traced or have its descriptors opened by others of its user."""
    _prctl(_PR_SET_DUMPABLE, int(dumpable), what="set dumpable")


def adopt_orphans() -> None:
    """Descendants whose parent died become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, what="become the reaper of descendants")


def drop_capabilities() -> None:
    """Gives up all capabilities for good: those held, those a program could get back, and those children inherit."""
    _prctl(_PR_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL, what="clear ambient capabilities")
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        last = int(file.read())
    for capability in range(last + 1):
        _libc.prctl(ctypes.c_int(_PR_CAPBSET_DROP), ctypes.c_ulong(capability), 0, 0, 0)  # refused where it is gone
    header = struct.pack("=Ii", 0x20080522, 0)  # version 3, this process
    _call(_SYS_CAPSET[platform.machine()], header, bytes(24), what="capset")


def forbid_new_privileges() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, what="set no_new_privs")


def install_filter(instructions: bytes) -> None:
    """Puts this process and its descendants behind a seccomp filter. Needs `forbid_new_privileges` before it."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    program = struct.pack("@HP", len(instructions) // 8, ctypes.addressof(code))
    _call(_SYS_SECCOMP[platform.machine()], _SECCOMP_SET_MODE_FILTER, 0, program, what="install the seccomp filter")


def landlock_abi() -> int:
    """The version of Landlock in this kernel; 0 where there is none."""
    try:
        return _call(_SYS_LANDLOCK_CREATE, None, 0, _LANDLOCK_ABI, what="landlock")
    except OSError:
        return 0


def landlock_restrict(files: int, network: int, scopes: int, rules: list[tuple[str, int]]) -> None:
    """Enters a Landlock domain in which the handled rights (bits of linux/landlock.h) are denied but for `rules`.

    A rule is a path and the rights at and below it; a path that does not exist is left out.
    """
    size = 8 if not network and not scopes else 24
    attributes = struct.pack("=QQQ", files, network, scopes)[:size]
    ruleset = _call(_SYS_LANDLOCK_CREATE, attributes, size, 0, what="create a Landlock ruleset")
    for path, rights in rules:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        kind = files if stat.S_ISDIR(os.fstat(descriptor).st_mode) else files & _LANDLOCK_OF_FILES
        rule = struct.pack("=Qi", rights & kind, descriptor)
        _call(_SYS_LANDLOCK_ADD, ruleset, _LANDLOCK_PATH_BENEATH, rule, 0, what=f"allow {path} in Landlock")
        os.close(descriptor)
    _call(_SYS_LANDLOCK_RESTRICT, ruleset, 0, what="enter the Landlock domain")
    os.close(ruleset)
