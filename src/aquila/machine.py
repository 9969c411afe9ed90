"""Facts about this machine: CPU and instruction sets, memory that a process may use, the peak it has used.

Read from /proc and cgroup files on Linux and from `sysctl` on macOS; imports no torch. `None` means that the
system does not say. `root` is an argument so that the files of another machine can be read.
"""

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# What native kernels can use -> the names it goes by in /proc/cpuinfo and in macOS's hw.optional
CPU_FEATURES = {
    "avx2": ("avx2", "avx2_0"),
    "fma": ("fma",),
    "f16c": ("f16c",),
    "avx_vnni": ("avx_vnni",),
    "avx512f": ("avx512f",),
    "avx512_vnni": ("avx512_vnni",),
    "avx512_bf16": ("avx512_bf16",),
    "amx_int8": ("amx_int8",),
    "amx_bf16": ("amx_bf16",),
    "neon": ("neon", "asimd", "AdvSIMD"),
    "dotprod": ("asimddp", "FEAT_DotProd"),
    "i8mm": ("i8mm", "FEAT_I8MM"),
    "bf16": ("bf16", "FEAT_BF16"),
    "sve": ("sve",),
}

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


@dataclass(frozen=True)
class Cpu:
    model: str
    num_cores: int | None  # physical
    num_usable_threads: int  # after affinity and cgroup quota
    features: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    total_bytes: int
    available_bytes: int
    limited_by: str | None  # "cgroup" when a container's limit is lower than the machine's memory


def read_cpu(root: Path = Path("/")) -> Cpu:
    facts = _linux_cpu(root) if sys.platform == "linux" else _mac_cpu()
    model, num_cores, flags = facts
    features = tuple(name for name, aliases in CPU_FEATURES.items() if flags.intersection(aliases))
    return Cpu(model or platform.processor() or platform.machine(), num_cores, _usable_threads(root), features)


def read_memory(root: Path = Path("/")) -> Memory | None:
    """Total and available memory within the cgroup limits of this process; None where nothing says."""
    if sys.platform == "darwin":
        return _mac_memory()
    if sys.platform != "linux":
        return None
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB", (root / "proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE))
    total, available = int(fields["MemTotal"]) * 1024, int(fields["MemAvailable"]) * 1024
    limited_by = None
    for limit, used in _cgroup_memory(root):
        if limit < total:
            total, limited_by = limit, "cgroup"
        available = min(available, max(0, limit - used))
    return Memory(total, min(available, total), limited_by)


def peak_memory_bytes() -> int | None:
    """The largest resident set that this process has had; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415  does not exist on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process holds now; None where the system does not say."""
    if sys.platform != "linux":
        return None
    fields = (root / "proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def keep_freed_memory() -> bool:
    """Lets the C library hold what this process frees, for what it asks for next. False where it cannot be told.

    By itself glibc returns large blocks to the system at once and gets them back page by page, each cleared anew: a
    tenth of a training step on a CPU, which frees and asks for the same tensors every time. The process stays at its
    peak.
    Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    no_mappings_of_their_own = mallopt(_M_MMAP_MAX, 0)
    return bool(no_mappings_of_their_own and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


def may_have_accelerator(root: Path = Path("/")) -> bool:
    """Whether asking torch for an accelerator is worth its import: a driver's device is there."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    names = ("nvidiactl", "nvidia0", "kfd", "dxg", "davinci_manager", "accel", "hl0")
    return sys.platform != "linux" or any((root / "dev" / name).exists() for name in names)


def _linux_cpu(root: Path) -> tuple[str, int | None, set[str]]:
    text = (root / "proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    cores = set(re.findall(r"^physical id\s*:\s*(\d+)$.*?^core id\s*:\s*(\d+)$", text, re.MULTILINE | re.DOTALL))
    return model[1].strip() if model else "", len(cores) or None, set(flags[1].split()) if flags else set()


def _mac_cpu() -> tuple[str, int | None, set[str]]:
    facts = _sysctl()
    flags = {
        name.rpartition(".")[2] for name, value in facts.items() if name.startswith("hw.optional.") and value == "1"
    }
    cores = facts.get("hw.physicalcpu")
    return facts.get("machdep.cpu.brand_string", ""), int(cores) if cores else None, flags


def _mac_memory() -> Memory | None:
    facts = _sysctl()
    if "hw.memsize" not in facts:
        return None
    pages = subprocess.run(["vm_stat"], capture_output=True, text=True, check=False).stdout
    page_size = re.search(r"page size of (\d+) bytes", pages)
    counts = re.findall(r"^Pages (?:free|inactive|speculative|purgeable):\s+(\d+)", pages, re.MULTILINE)
    total = int(facts["hw.memsize"])
    available = sum(map(int, counts)) * int(page_size[1]) if page_size else total
    return Memory(total, min(available, total), None)


def _sysctl() -> Mapping[str, str]:
    if sys.platform != "darwin":
        return {}
    output = subprocess.run(["sysctl", "-a"], capture_output=True, text=True, check=False).stdout
    return dict(line.split(": ", 1) for line in output.splitlines() if ": " in line)


def _usable_threads(root: Path) -> int:
    threads = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    for folder in _cgroup_folders(root, "cpu"):
        quota = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(quota) == 2 and quota[0].isdecimal():  # "max" or -1: no limit
            threads = min(threads, max(1, -(-int(quota[0]) // int(quota[1]))))
    return threads


def _cgroup_memory(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes used and not reclaimable) of each cgroup around this process that has a limit."""
    for folder in _cgroup_folders(root, "memory"):
        limit = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
        used = _words(folder / "memory.current") or _words(folder / "memory.usage_in_bytes")
        if not (limit and used and limit[0].isdecimal()):
            continue
        statistics = _words(folder / "memory.stat")
        pairs = dict(zip(statistics[::2], statistics[1::2], strict=False))
        cache = int(pairs.get("total_inactive_file", pairs.get("inactive_file", "0")))
        yield int(limit[0]), max(0, int(used[0]) - cache)


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """This process's group and those around it: version 2 has one tree, version 1 a tree a controller."""
    membership = root / "proc/self/cgroup"
    lines = membership.read_text(encoding="utf-8").splitlines() if membership.exists() else []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        inner = top / group.lstrip("/")
        yield inner
        yield from (parent for parent in inner.parents if parent.is_relative_to(top))


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split() if path.is_file() else []
