"""The walls where namespaces are not to be had: a Landlock domain. Source: linux/landlock.h."""

import glob

from aquila.sandbox.inside import kernel

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
# By the version that brought the last of them.
ALL_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
CONNECT_AND_BIND = 0b11  # TCP, from version 4
SCOPES = 0b11  # abstract unix sockets and signals, from version 6

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/alternatives", *glob.glob("/etc/java*"))
SYSTEM_FILES = (
    *("/etc/ld.so.cache", "/etc/ssl/openssl.cnf", "/proc/meminfo", "/proc/cpuinfo"),
    *("/dev/urandom", "/dev/random", "/dev/zero"),
)


def scopes_signals(abi: int) -> bool:
    return abi >= 6


def restrict(abi: int, readable: list[str], writable: list[str]) -> None:
    """Leaves this process the system's programs, and what is at and below `readable` and `writable`.

    From version 4 on TCP is closed to it, from version 6 on so are signals to processes outside.
    """
    handled = max(rights for version, rights in ALL_FILE_RIGHTS.items() if version <= abi)
    rules = [(path, EXECUTE | READ_FILE | READ_DIR) for path in (*SYSTEM, *readable)]
    rules += [(path, READ_FILE) for path in SYSTEM_FILES]
    rules += [(path, handled & ~IOCTL_DEV) for path in writable]
    rules.append(("/dev/null", READ_FILE | WRITE_FILE | TRUNCATE))
    network = CONNECT_AND_BIND if abi >= 4 else 0
    kernel.landlock_restrict(handled, network, SCOPES if scopes_signals(abi) else 0, rules)
