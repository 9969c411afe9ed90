"""Decode speed of one sequence beside llama.cpp, same GGUF file, a process a side, in turns.

    python bench/decode.py [--quick] [--models 7b] [--llama-python PYTHON]

Ours goes through `Engine` as every caller does, scheduling, sampling and text included. `of bandwidth` is the share of
the memory bandwidth measured in the same run that the weights alone take: file bytes a token reads x tokens/s.
"""

from side_by_side.compare import Bench, Case, run_bench
from side_by_side.memory import read_bandwidth
from side_by_side.models import bytes_per_token

CASES = (Case("smollm2-135m", 512, 64), Case("1.1b", 512, 48), Case("7b", 32, 32))

if __name__ == "__main__":
    run_bench(
        Bench(
            name="decode",
            doc=__doc__,
            phase="decode",
            cases=CASES,
            quick=1,
            limit=read_bandwidth,
            figure=lambda checkpoint, rate, limit: bytes_per_token(checkpoint) * rate / limit,
            figure_name="of bandwidth",
        )
    )
