"""What a program inside can and cannot do, tried out: the source of a sample that `aquila sandbox doctor` calls.

Each function answers with the plain result of one attempt. Nothing here is trusted by anybody.
"""

import ctypes
import os
import signal
import socket
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_CALLS = {  # name -> number by machine, arguments
    "keyctl": ({"x86_64": 250, "aarch64": 219}, (0, -3, 0, 0, 0)),
    "userfaultfd": ({"x86_64": 323, "aarch64": 282}, (1,)),
    "io_uring_setup": ({"x86_64": 425, "aarch64": 425}, (1, 0)),
    "bpf": ({"x86_64": 321, "aarch64": 280}, (0, 0, 0)),
    "perf_event_open": ({"x86_64": 298, "aarch64": 241}, (0, 0, -1, -1, 0)),
    "unshare": ({"x86_64": 272, "aarch64": 97}, (0x10000000,)),
    "memfd_create": ({"x86_64": 319, "aarch64": 279}, (0, 0)),
    "ptrace": ({"x86_64": 101, "aarch64": 117}, (16, 1, 0, 0)),
}
_REFUSED = (1, 38, 97)  # EPERM, ENOSYS, EAFNOSUPPORT


def identity():
    """uid, capabilities held, no_new_privs, seccomp mode."""
    data = ctypes.create_string_buffer(24)
    header = struct.pack("=Ii", 0x20080522, 0)
    _libc.syscall(ctypes.c_long({"x86_64": 125, "aarch64": 90}[os.uname().machine]), header, data)
    return [os.getuid(), sum(struct.unpack("=6I", data.raw)), _libc.prctl(39, 0, 0, 0, 0), _libc.prctl(21, 0, 0, 0, 0)]


def reads(path):
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return error.strerror
    return None


def writes(folder):
    path = f"{folder}/aquila-probe"
    try:
        with open(path, "wb") as file:
            file.write(b"x")
        os.unlink(path)
    except OSError as error:
        return error.strerror
    return None


def signals(pid):
    """Whether a signal can be sent to a process of the host; none is."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.strerror
    return None


def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def connects_abstract(name):
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("\0" + name)
    except OSError as error:
        return error.strerror
    return None


def families(numbers):
    """Families of sockets, of those asked for, that can be made."""
    made = []
    for number in numbers:
        try:
            socket.socket(number, socket.SOCK_DGRAM).close()
            made.append(number)
        except OSError:
            pass
    return made


def kernel_calls():
    """Names of calls that were not refused."""
    machine = os.uname().machine
    reached = []
    for name, (numbers, arguments) in _CALLS.items():
        words = [ctypes.c_long(argument) for argument in arguments]
        result = _libc.syscall(ctypes.c_long(numbers[machine]), *words)
        if result >= 0 or ctypes.get_errno() not in _REFUSED:
            reached.append(name)
    return reached


def allocate(num_bytes):
    try:
        return len(bytearray(num_bytes))
    except MemoryError:
        return None


def fork(count):
    """How many of `count` processes could be started."""
    started = 0
    for _ in range(count):
        try:
            if os.fork() == 0:
                signal.pause()
        except OSError:
            break
        started += 1
    return started


def fill(folder, num_bytes):
    """Bytes that could be written in files of 16 MiB."""
    written, block = 0, bytes(1 << 20)
    try:
        for number in range(num_bytes >> 24):
            with open(f"{folder}/fill{number}", "wb", buffering=0) as file:
                for _ in range(16):
                    written += file.write(block)
    except OSError:
        pass
    return written


def environment():
    return sorted(os.environ)


def descriptors():
    found = []
    for number in range(64):
        try:
            os.fstat(number)
            found.append(number)
        except OSError:
            pass
    return found


def probe(name, *arguments):
    return globals()[name](*arguments)
