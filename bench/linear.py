"""Which product serves a linear layer on this CPU: MKL (F.linear), oneDNN, or a batched product a slice a thread.

    python bench/linear.py [--quick]

fp32, weights from memory (several copies are rotated). The table is what `aquila.model.linear.multiply` is built on.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

SHAPES = ((960, 576), (3072, 576), (576, 1536), (49152, 576), (11008, 4096))
ROWS = (1, 2, 4, 8, 16, 64, 512)
ROTATED_BYTES = 200 << 20  # beyond the last-level cache


def seconds(call: Callable[[torch.Tensor], object], weights: list[torch.Tensor], repeats: int) -> float:
    """Median time of one product over all weights, divided by their number."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        for weight in weights:
            call(weight)
        times.append((time.perf_counter() - started) / len(weights))
    return statistics.median(times[1:])


def products(x: torch.Tensor) -> dict[str, Callable[[torch.Tensor], object]]:
    """The three ways to `x @ weight.T`."""
    threads = torch.get_num_threads()
    rows, width = x.shape
    spread = x.view(1, rows, width).expand(threads, rows, width)
    return {
        "mkl": lambda weight: F.linear(x, weight),
        "onednn": lambda weight: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], ""),
        "sliced": lambda weight: torch.bmm(spread, weight.view(threads, -1, width).transpose(1, 2)),
    }


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    shapes, rows_list, repeats = (SHAPES[:3], (1, 8, 64), 3) if quick else (SHAPES, ROWS, 9)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; microseconds a product, median of {repeats}")
    print(f"{'out x in':>14} {'rows':>5} {'mkl':>9} {'onednn':>9} {'sliced':>9}")
    medians: dict[str, dict[str, float]] = {}
    for out_features, in_features in shapes:
        copies = max(1, ROTATED_BYTES // (4 * out_features * in_features))
        weights = [torch.randn(out_features, in_features) for _ in range(copies)]
        for rows in rows_list:
            found = {
                name: 1e6 * seconds(call, weights, repeats)
                for name, call in products(torch.randn(rows, in_features)).items()
            }
            medians[f"{out_features}x{in_features}@{rows}"] = found
            print(f"{out_features:>7} x{in_features:>5} {rows:>5} " + " ".join(f"{us:9.1f}" for us in found.values()))
    ratios = {f"{case} onednn vs mkl": found["mkl"] / found["onednn"] for case, found in medians.items()}
    ratios |= {f"{case} sliced vs mkl": found["mkl"] / found["sliced"] for case, found in medians.items()}
    summary = {"name": "linear", "versions": {"torch": torch.__version__}, "medians": medians, "ratios": ratios}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
