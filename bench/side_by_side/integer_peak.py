"""How fast this machine multiplies 8-bit integers, for comparison with what a prompt's processing reaches."""

import math
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

REPEATS = 3


def integer_peak(threads: int) -> float:
    """Operations a second of `threads` threads together (an addition counts too), the best of a few runs.

    Not a number where no C++ compiler is, or the processor has no such instruction.
    """
    program = _program()
    if program is None:
        return math.nan
    runs = [subprocess.run([program, str(threads)], capture_output=True, text=True, check=True) for _ in range(REPEATS)]
    return max(float(run.stdout.split()[0]) for run in runs)


@cache
def _program() -> Path | None:
    compiler = shutil.which("c++")
    if compiler is None:
        return None
    program = Path(tempfile.mkdtemp(prefix="aquila-bench-")) / "integer_peak"
    source = Path(__file__).with_suffix(".cpp")
    command = [compiler, "-O2", "-std=c++17", "-march=native", "-pthread", str(source), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    return program if built.returncode == 0 else None
