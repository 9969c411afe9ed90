"""The system calls that a sandboxed program may not make, as a classic BPF program for seccomp.

Source: linux/filter.h and linux/seccomp.h; the denied calls follow Docker's default profile, and add what a sandbox
of namespaces leaves open: key rings, user-mode fault handling, io_uring, sockets of rare families. Nothing but Python
is needed to build it. A call is refused with an error number, not by killing: programs that only try go on.
"""

import platform
import struct
from dataclasses import dataclass
from typing import Literal

from aquila.errors import SandboxError
from aquila.sandbox.syscalls import AUDIT_ARCH, NEWEST_CALL, SYSCALLS

Surroundings = Literal["namespaces", "host"]

EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
CLONE_NEW_ANY = 0x7E020000  # NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP = 0x5412, 0x541C, 0x8901, 0x8902
F_SETOWN, F_SETOWN_EX = 8, 15

DENIED = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "perf_event_open"),
    *("process_madvise", "process_mrelease", "migrate_pages", "move_pages"),
    *("add_key", "request_key", "keyctl"),
    *("bpf", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "personality", "syslog"),
    *("fanotify_init", "name_to_handle_at", "open_by_handle_at", "lookup_dcookie", "modify_ldt", "vhangup"),
    *("mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick"),
    *("mount_setattr", "unshare", "setns"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot"),
    *("swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "sethostname", "setdomainname", "iopl", "ioperm"),
    # memory that neither RLIMIT_DATA nor the size of a tmpfs bounds, and that outlives its process
    *("memfd_create", "memfd_secret", "shmget", "shmat", "shmctl", "msgget", "semget", "mq_open"),
)
# Where other processes of the same user can be seen: what could reach them.
DENIED_ON_HOST = (
    *("setpriority", "ioprio_set", "sched_setscheduler", "sched_setparam", "sched_setattr"),
    # what Landlock does not see, or not before its third version. Not chmod, without which linkers fail
    *("truncate", "chown", "lchown", "fchown", "fchownat"),
    *("setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr"),
    *("utime", "utimes", "futimesat", "utimensat"),
)
SIGNALS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")

# Opcodes of linux/bpf_common.h.
LOAD, JUMP_IF_EQUAL, JUMP_IF_ABOVE, JUMP_IF_SET, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
# Offsets in struct seccomp_data; an argument's low half comes first on both machines.
NUMBER, MACHINE, ARGUMENTS = 0, 4, 16
ALLOW, ERRNO, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000


@dataclass(frozen=True)
class _Jump:
    opcode: int
    value: int
    then: int  # instructions to skip where the test holds
    otherwise: int


class _Assembler:
    """Instructions in order. Tests jump a fixed, short distance forward, so no labels are needed."""

    def __init__(self) -> None:
        self.code: list[bytes] = []

    def load(self, offset: int) -> None:
        self._emit(LOAD, 0, 0, offset)

    def refuse(self, error: int) -> None:
        self._emit(RETURN, 0, 0, ERRNO | error)

    def finish(self, action: int) -> None:
        self._emit(RETURN, 0, 0, action)

    def jump(self, jump: _Jump) -> None:
        assert max(jump.then, jump.otherwise) < 256, "a jump's distance is a byte"
        self._emit(jump.opcode, jump.then, jump.otherwise, jump.value)

    def when(self, opcode: int, value: int, error: int) -> None:
        """Refuses where the loaded word passes the test."""
        self.jump(_Jump(opcode, value, 0, 1))
        self.refuse(error)

    def for_call(self, number: int, block: "_Assembler") -> None:
        """Runs `block`, which ends with an action, for one call only; the call's number is loaded before and after."""
        self.jump(_Jump(JUMP_IF_EQUAL, number, 0, len(block.code)))
        self.code += block.code

    def _emit(self, opcode: int, then: int, otherwise: int, value: int) -> None:
        self.code.append(struct.pack("=HBBI", opcode, then, otherwise, value))


def build_filter(surroundings: Surroundings, *, scoped_signals: bool = True, machine: str | None = None) -> bytes:
    """The filter's instructions, 8 bytes each.

    Args:
        surroundings: `namespaces` where other processes, sockets and addresses are out of sight already; `host` where
            the filter itself has to deny every socket and what reaches other processes of the same user.
        scoped_signals: whether something else keeps signals inside; otherwise all calls that send one are refused.
        machine: as `platform.machine()` says it.

    Raises:
        SandboxError: this processor's numbers are not known.
    """
    machine = machine or platform.machine()
    if machine not in SYSCALLS:
        raise SandboxError(
            f"there is no list of system calls for the processor {machine!r}; known are {', '.join(sorted(SYSCALLS))}: "
            "run untrusted code on such a machine"
        )
    numbers = SYSCALLS[machine]
    asm = _Assembler()
    asm.load(MACHINE)
    asm.jump(_Jump(JUMP_IF_EQUAL, AUDIT_ARCH[machine], 1, 0))
    asm.finish(KILL_PROCESS)  # a program in another machine's code has other numbers
    asm.load(NUMBER)
    asm.when(JUMP_IF_ABOVE, NEWEST_CALL, ENOSYS)  # x32's too: those start at 0x40000000
    asm.when(JUMP_IF_EQUAL, numbers["clone3"], ENOSYS)  # its flags lie in memory; libc falls back to clone
    _check_arguments(asm, numbers, surroundings)
    denied = DENIED if surroundings == "namespaces" else DENIED + DENIED_ON_HOST
    if surroundings == "host" and not scoped_signals:
        denied += SIGNALS
    for name in denied:
        if name in numbers:
            asm.when(JUMP_IF_EQUAL, numbers[name], EPERM)
    asm.finish(ALLOW)
    return b"".join(asm.code)


def _check_arguments(asm: _Assembler, numbers: dict[str, int], surroundings: Surroundings) -> None:
    families = (AF_UNIX, AF_INET, AF_INET6) if surroundings == "namespaces" else ()
    asm.for_call(numbers["clone"], _refuse_any(0, JUMP_IF_SET, (CLONE_NEW_ANY,)))
    asm.for_call(numbers["socket"], _allow_only(families))
    asm.for_call(numbers["socketpair"], _allow_only((AF_UNIX,)))
    ioctls = (TIOCSTI, TIOCLINUX) if surroundings == "namespaces" else (TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP)
    asm.for_call(numbers["ioctl"], _refuse_any(1, JUMP_IF_EQUAL, ioctls))
    if surroundings == "host":
        asm.for_call(numbers["fcntl"], _refuse_any(1, JUMP_IF_EQUAL, (F_SETOWN, F_SETOWN_EX)))
        for name in ("prlimit64", "sched_setaffinity"):  # of another process; 0 is the caller
            asm.for_call(numbers[name], _allow_only((0,), EPERM))


def _refuse_any(argument: int, opcode: int, values: tuple[int, ...]) -> _Assembler:
    block = _Assembler()
    block.load(ARGUMENTS + 8 * argument)
    for value in values:
        block.when(opcode, value, EPERM)
    block.finish(ALLOW)
    return block


def _allow_only(values: tuple[int, ...], error: int = EAFNOSUPPORT) -> _Assembler:
    """By the first argument."""
    block = _Assembler()
    block.load(ARGUMENTS)
    for value in values:
        block.jump(_Jump(JUMP_IF_EQUAL, value, 0, 1))
        block.finish(ALLOW)
    block.refuse(error)
    return block
