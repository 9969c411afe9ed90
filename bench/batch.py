"""Decode speed of many sequences together beside llama.cpp, same GGUF file, a process a side, in turns.

    python bench/batch.py [--quick] [--models 1.1b] [--llama-python PYTHON]

Tokens/s of all sequences together, in steps that all take part in. llama.cpp computes all of them in one `llama_decode`
a step. `of int peak` is 2 x parameters x tokens/s, the embedding not counted twice, as a share of the 8-bit operations
a second that as many threads do in registers.
"""

from aquila.checkpoint.checkpoint import Checkpoint
from side_by_side.compare import Bench, Case, run_bench
from side_by_side.integer_peak import integer_peak
from side_by_side.models import block_parameters

CASES = tuple(Case(model, 128, 24, batch) for model in ("smollm2-135m", "1.1b") for batch in (8, 32))


def share_of_peak(checkpoint: Checkpoint, rate: float, limit: float) -> float:
    config = checkpoint.config
    return 2 * (block_parameters(config) + config.vocab_size * config.hidden_size) * rate / limit


if __name__ == "__main__":
    run_bench(
        Bench(
            name="batch",
            doc=__doc__,
            phase="decode",
            cases=CASES,
            quick=1,
            limit=integer_peak,
            figure=share_of_peak,
            figure_name="of int peak",
        )
    )
