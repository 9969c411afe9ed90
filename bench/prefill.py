"""Prompt processing of one sequence beside llama.cpp, and CTranslate2 in int8; a process a side, in turns.

    python bench/prefill.py [--quick] [--models 1.1b] [--llama-python PYTHON] [--ctranslate2-python PYTHON]

From the prompt's ids to its first answered token, through `Engine`. `of int peak` is 2 x parameters of the blocks x
tokens/s (the head is multiplied by the last token only), as a share of the 8-bit operations a second that as many
threads do in registers, measured in the same run.
"""

from side_by_side.compare import Bench, Case, run_bench
from side_by_side.integer_peak import integer_peak
from side_by_side.models import block_parameters

CASES = (
    Case("smollm2-135m", 512, 1, peers=("llama.cpp", "ctranslate2")),
    Case("1.1b", 512, 1, peers=("llama.cpp", "ctranslate2")),
    Case("7b", 128, 1),
)

if __name__ == "__main__":
    run_bench(
        Bench(
            name="prefill",
            doc=__doc__,
            phase="prefill",
            cases=CASES,
            quick=1,
            limit=integer_peak,
            figure=lambda checkpoint, rate, limit: 2 * block_parameters(checkpoint.config) * rate / limit,
            figure_name="of int peak",
        )
    )
