"""The filter, read by an interpreter of its own and compared with the system's headers; the kernel's verdict is in
../evaluate/test_adversarial.py.
"""

import re
import struct
from pathlib import Path

import pytest

from aquila.errors import SandboxError
from aquila.sandbox.seccomp import (
    ALLOW,
    DENIED,
    DENIED_ON_HOST,
    EAFNOSUPPORT,
    ENOSYS,
    EPERM,
    ERRNO,
    KILL_PROCESS,
    SIGNALS,
    build_filter,
)
from aquila.sandbox.syscalls import AUDIT_ARCH, NEWEST_CALL, SYSCALLS

MACHINES = ("x86_64", "aarch64")


def decide(instructions: bytes, number: int, *arguments: int, arch: int) -> int:
    """What a filter says of a call: an interpreter of the five opcodes, after linux/filter.h."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *(arguments + (0,) * 6)[:6])
    code = list(struct.iter_unpack("=HBBI", instructions))
    counter = accumulator = 0
    while True:
        opcode, then, otherwise, value = code[counter]
        counter += 1
        if opcode == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif opcode == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x25: accumulator > value, 0x45: bool(accumulator & value)}[opcode]
            counter += then if holds else otherwise


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_denied_call_is_refused_and_others_are_allowed(machine: str):
    instructions = build_filter("namespaces", machine=machine)
    numbers = SYSCALLS[machine]
    denied = {numbers[name] for name in DENIED if name in numbers}
    judged = {number: decide(instructions, number, arch=AUDIT_ARCH[machine]) for number in range(NEWEST_CALL + 1)}
    asked = {numbers[name] for name in ("clone", "clone3", "socket", "socketpair", "ioctl")}
    assert {number for number, verdict in judged.items() if verdict == ERRNO | EPERM} - asked == denied
    assert all(judged[number] == ALLOW for number in judged.keys() - denied - asked)
    assert judged[numbers["clone3"]] == ERRNO | ENOSYS


def test_another_machines_code_ends_the_process(machine: str):
    other = AUDIT_ARCH["aarch64" if machine == "x86_64" else "x86_64"]
    assert decide(build_filter("namespaces", machine=machine), 1, arch=other) == KILL_PROCESS


def test_calls_newer_than_the_list_and_those_of_x32_are_reported_missing(machine: str):
    instructions = build_filter("namespaces", machine=machine)
    for number in (NEWEST_CALL + 1, 0x40000000, 0x40000101, 0xFFFFFFFF):
        assert decide(instructions, number, arch=AUDIT_ARCH[machine]) == ERRNO | ENOSYS


def test_arguments_decide_about_clone_sockets_and_terminals(machine: str):
    numbers, arch = SYSCALLS[machine], AUDIT_ARCH[machine]

    def verdict(name: str, *arguments: int, filter: bytes = build_filter("namespaces", machine=machine)) -> int:
        return decide(filter, numbers[name], *arguments, arch=arch)

    assert verdict("clone", 0x01200011) == ALLOW  # fork
    assert verdict("clone", 0x003D0F00) == ALLOW  # a thread
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict("clone", 0x11 | flag) == ERRNO | EPERM
    assert [verdict("socket", family) for family in (1, 2, 10)] == [ALLOW] * 3
    assert [verdict("socket", family) for family in (0, 16, 17, 40)] == [ERRNO | EAFNOSUPPORT] * 4
    assert verdict("ioctl", 0, 0x5413) == ALLOW
    assert [verdict("ioctl", 0, request) for request in (0x5412, 0x541C)] == [ERRNO | EPERM] * 2
    host = build_filter("host", machine=machine)
    assert [verdict("socket", family, filter=host) for family in (1, 2, 10)] == [ERRNO | EAFNOSUPPORT] * 3
    assert verdict("socketpair", 1, filter=host) == ALLOW
    for name in ("truncate", "fchownat", "setxattr", "utimensat"):  # what Landlock lets pass on the host's files
        assert (verdict(name), verdict(name, filter=host)) == (ALLOW, ERRNO | EPERM)
    assert verdict("prlimit64", 0, filter=host) == ALLOW
    assert verdict("prlimit64", 4711, filter=host) == ERRNO | EPERM
    assert verdict("fcntl", 3, 8, filter=host) == ERRNO | EPERM


def test_beside_others_of_the_same_user_more_is_refused(machine: str):
    numbers, arch = SYSCALLS[machine], AUDIT_ARCH[machine]
    scoped = build_filter("host", machine=machine)
    unscoped = build_filter("host", scoped_signals=False, machine=machine)
    never_there = {"chown", "lchown", "utime", "utimes", "futimesat"} if machine == "aarch64" else set()
    assert set(DENIED_ON_HOST) - numbers.keys() == never_there
    for name in set(DENIED_ON_HOST) - never_there:
        assert decide(scoped, numbers[name], arch=arch) == ERRNO | EPERM
    for name in SIGNALS:
        assert decide(scoped, numbers[name], arch=arch) == ALLOW
        assert decide(unscoped, numbers[name], arch=arch) == ERRNO | EPERM


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "/usr/include/asm-generic/unistd.h")],
)
def test_numbers_are_those_of_the_systems_headers(machine: str, header: str):
    if not Path(header).is_file():
        pytest.skip(f"no {header} (apt install linux-libc-dev)")
    text = Path(header).read_text(encoding="utf-8")
    known = {name: int(number) for name, number in re.findall(r"#define __NR\w*?_(\w+)\s+(\d+)$", text, re.MULTILINE)}
    known |= {
        name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)$", text, re.MULTILINE)
    }
    found = {name: known.get(name) for name in SYSCALLS[machine]}
    newer = {name for name, number in found.items() if number is None}
    assert newer <= {"quotactl_fd", "memfd_secret", "process_mrelease", "mount_setattr"}  # in older headers
    assert {name: number for name, number in SYSCALLS[machine].items() if name not in newer} == {
        name: number for name, number in found.items() if number is not None
    }


def test_an_unknown_processor_is_refused():
    with pytest.raises(
        SandboxError, match=r"no list of system calls for the processor 'vax'; known are aarch64, x86_64"
    ):
        build_filter("namespaces", machine="vax")
