"""Machine facts, read from trees that look like other machines: containers, ARM, both cgroup versions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aquila.machine import Memory, peak_memory_bytes, read_cpu, read_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and cgroup files")

GIB = 1 << 30
MEMINFO = f"MemTotal: {64 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {48 * GIB // 1024} kB\n"
X86 = """\
processor\t: 0
model name\t: Some Server CPU @ 2.5GHz
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse2 fma avx2 avx512f avx512_vnni

processor\t: 1
model name\t: Some Server CPU @ 2.5GHz
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse2 fma avx2 avx512f avx512_vnni

processor\t: 2
model name\t: Some Server CPU @ 2.5GHz
physical id\t: 1
core id\t\t: 0
flags\t\t: fpu sse2 fma avx2 avx512f avx512_vnni
"""
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp i8mm bf16 sve\n"


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_memory_without_a_limit(tmp_path: Path) -> None:
    root = write_files(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n"})
    assert read_memory(root) == Memory(64 * GIB, 48 * GIB, None)


def test_a_limit_around_the_own_group_counts_and_file_cache_is_free(tmp_path: Path) -> None:
    """Version 2: the limit stands on the parent; pages of files that nobody uses can be reclaimed."""
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/pod/box\n",
        "sys/fs/cgroup/pod/box/memory.max": "max\n",
        "sys/fs/cgroup/pod/memory.max": f"{8 * GIB}\n",
        "sys/fs/cgroup/pod/memory.current": f"{3 * GIB}\n",
        "sys/fs/cgroup/pod/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}\n",
    }
    assert read_memory(write_files(tmp_path, files)) == Memory(8 * GIB, 7 * GIB, "cgroup")


def test_version_1_groups_are_read_where_the_container_sees_them(tmp_path: Path) -> None:
    """The path in /proc is the host's; inside a container the group is mounted at the top."""
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
    }
    assert read_memory(write_files(tmp_path, files)) == Memory(4 * GIB, 3 * GIB, "cgroup")


def test_physical_cores_and_features_of_x86(tmp_path: Path) -> None:
    cpu = read_cpu(write_files(tmp_path, {"proc/cpuinfo": X86}))
    assert (cpu.model, cpu.num_cores) == ("Some Server CPU @ 2.5GHz", 2)
    assert cpu.features == ("avx2", "fma", "avx512f", "avx512_vnni")


def test_features_of_arm_go_by_the_names_people_know(tmp_path: Path) -> None:
    cpu = read_cpu(write_files(tmp_path, {"proc/cpuinfo": ARM}))
    assert cpu.features == ("neon", "dotprod", "i8mm", "bf16", "sve")
    assert cpu.num_cores is None


@pytest.mark.parametrize(("quota", "expected"), [("50000 100000", 1), ("max 100000", None)])
def test_a_cpu_quota_limits_the_threads(tmp_path: Path, quota: str, expected: int | None) -> None:
    files = {"proc/cpuinfo": X86, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota}
    cpu = read_cpu(write_files(tmp_path, files))
    assert cpu.num_usable_threads == (expected or len(os.sched_getaffinity(0)))


def test_this_machine_has_memory_and_a_peak_below_it() -> None:
    memory, peak = read_memory(), peak_memory_bytes()
    assert memory is not None
    assert peak is not None
    assert 0 < memory.available_bytes <= memory.total_bytes
    assert 1 << 20 < peak < memory.total_bytes


def test_freed_memory_is_there_for_the_next_that_asks():
    """As it is by itself, every round of a large block costs a fault for each of its pages."""
    code = """
import ctypes, resource, sys
from aquila.machine import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
size, faults = 64 << 20, []
if sys.argv[1] == "keep":
    keep_freed_memory() or sys.exit(3)
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    libc.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(faults[1:]))
"""
    faults = {}
    for how in ("keep", "as it is"):
        done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True)
        if done.returncode == 3:
            pytest.skip("the C library is not glibc")
        faults[how] = int(done.stdout)
    assert faults["keep"] < 50
    assert faults["as it is"] > 90  # pages of 2 MiB, where the system gives them, are few
