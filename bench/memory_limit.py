"""Decode speed inside a memory cgroup that is smaller than the model, beside llama.cpp reading the file by mmap.

    python bench/memory_limit.py [--quick] [--models 7b] [--limits 3GiB,2GiB,1GiB] [--llama-python PYTHON]

Each side runs in a cgroup of its own with the same limit, from the interpreter's first byte on, and the model's file is
thrown out of the page cache before. llama.cpp repacks nothing: the copy would not fit. `full` counts the times that our
group had no room left (failcnt), `peak` is what it took at most, page cache included.

The rows `edit` let lookup decoding guess while the model edits code, beside the same plain decoding of llama.cpp.
Weights are random, so the answer, written for this bench, is put into the model's mouth after every step; all of each
step is computed. Needs root.
"""

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aquila.checkpoint.checkpoint import Checkpoint
from aquila.checkpoint.open import open_checkpoint
from aquila.config import format_size, parse_size
from aquila.errors import AquilaError
from aquila.machine import read_cpu
from aquila.zoo.pull import pull
from side_by_side.cgroup import MemoryGroup, forget_cached
from side_by_side.compare import OURS, Case
from side_by_side.edits import EDITS
from side_by_side.models import REAL, bench_file, packed_file
from side_by_side.peers import PEERS, add_options, find_peers
from side_by_side.worker import SideError, Worker

PEER = "llama.cpp"
CASES = {"7b": ("3GiB", "2GiB", "1GiB"), "1.1b": ("500MiB", "350MiB")}
QUICK = ("1.1b", ("350MiB",))
PROMPT, NEW = 16, 8  # tokens; a token of the peer may take ten seconds
EDIT_TOKENS = 64  # of an answer


@dataclass
class Rates:
    """Tokens/s of every round."""

    plain: list[float] = field(default_factory=list)
    edit: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    tokens_per_step: list[float] = field(default_factory=list)


def main() -> None:
    options = parse()
    peers = find_peers(options, [PEER])
    print(f"{read_cpu().model}, {options.threads} threads; tokens/s, median of {options.repeats}")
    print(f"{'':24} {OURS:>8} {PEER:>9} {'ratio':>7} {'peak':>9} {'full':>5}", flush=True)
    rows: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for model, limits in cases(options):
        edits = edit_tokens(open_checkpoint(bench_file(model)))
        for limit in limits:
            try:
                rows += run(model, limit, edits, peers, options, versions)
            except (AquilaError, SideError) as error:
                print(f"{model} in {limit} is left out: {error}", flush=True)
    print(json.dumps(summary(rows, versions, options)))
    if not rows:
        sys.exit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smaller model in one limit, 1 repeat")
    parser.add_argument("--models", default="7b", help=f"of {', '.join(CASES)}")
    parser.add_argument("--limits", help="as 3GiB,2GiB; the model's own when not given")
    parser.add_argument("--repeats", type=int, help="5 when not given")
    parser.add_argument("--threads", type=int, default=2)
    add_options(parser, [PEER])
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 5)
    return options


def cases(options: argparse.Namespace) -> list[tuple[str, tuple[str, ...]]]:
    if options.quick:
        return [QUICK]
    chosen = options.models.split(",")
    if unknown := [model for model in chosen if model not in CASES]:
        sys.exit(f"--models {','.join(unknown)}: the cases have {', '.join(CASES)}")
    return [(model, tuple(options.limits.split(",")) if options.limits else CASES[model]) for model in chosen]


def edit_tokens(checkpoint: Checkpoint) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer of every edit, in the tokens of a real vocabulary folded into that of the model."""
    tokenizer = open_checkpoint(pull(REAL)).load_tokenizer()
    size = checkpoint.config.vocab_size

    def ids(text: str) -> list[int]:
        return [token_id % size for token_id in tokenizer.encode(text)]

    return [(ids(edit.prompt), ids(edit.answer)[:EDIT_TOKENS]) for edit in EDITS]


def run(
    model: str,
    limit: str,
    edits: list[tuple[list[int], list[int]]],
    peers: dict[str, str],
    options: argparse.Namespace,
    versions: dict[str, str],
) -> list[dict[str, Any]]:
    """The two rows of a model in a limit: plain decoding, and edits with lookup."""
    limit_bytes = parse_size(limit)
    rates = Rates()
    case = Case(model, PROMPT, NEW)
    vocab_size = open_checkpoint(bench_file(model)).config.vocab_size
    with sides(model, limit_bytes, peers, options.threads) as (ours, group, peer):
        versions |= {side.name: side.facts["version"] for side in (ours, peer) if side is not None}
        for repeat in range(options.repeats + 1):
            prompts = case.prompts(vocab_size, repeat)
            prompt, answer = edits[repeat % len(edits)]
            plain = ours.ask({"prompts": prompts, "new": NEW, "mode": {}})
            edit = ours.ask({"prompts": [prompt], "answer": answer})
            theirs = (
                peer.ask({"prompts": prompts, "new": NEW, "mode": peer.facts["modes"]["alone"][-1]}) if peer else None
            )
            if repeat:  # the first round warms up
                rates.plain.append(NEW / plain["decode_seconds"])
                rates.edit.append((len(answer) - 1) / edit["decode_seconds"])
                rates.tokens_per_step.append((len(answer) - 1) / edit["steps"])
                if theirs is not None:
                    rates.peer.append(NEW / theirs["decode_seconds"])
        facts = {"limit_bytes": limit_bytes, "peak_bytes": group.peak_bytes, "failcnt": group.refusals}
        facts["streamed_bytes"] = ours.facts["plan"]["streamed_bytes"]
    return [
        row(f"{model} in {limit}", rates.plain, rates.peer, facts),
        row(
            f"{model} in {limit}, edit",
            rates.edit,
            rates.peer,
            facts | {"tokens_per_step": statistics.median(rates.tokens_per_step)},
        ),
    ]


@contextmanager
def sides(
    model: str, limit_bytes: int, peers: dict[str, str], threads: int
) -> Generator[tuple[Worker, MemoryGroup, Worker | None]]:
    """Both sides, loaded, each in its cgroup."""
    with ExitStack() as stack:

        def start(
            name: str, path: Path, python: str, module: str, settings: dict[str, Any]
        ) -> tuple[Worker, MemoryGroup]:
            forget_cached(path)
            group = MemoryGroup(module, limit_bytes)
            stack.callback(group.close)
            told = {"path": str(path), "threads": threads} | settings
            worker = Worker(name, python, module, told, {"OMP_NUM_THREADS": str(threads)}, group.prefix)
            stack.callback(worker.close)
            return worker, group

        ours, group = start(OURS, packed_file(model), sys.executable, "ours", {"memory_limit": limit_bytes})
        peer = None
        if PEER in peers:
            shape = open_checkpoint(bench_file(model)).config.model_dump(mode="json")
            peer, _ = start(PEER, bench_file(model), peers[PEER], PEERS[PEER].module, {"shape": shape, "mmap": True})
        yield ours, group, peer


def row(name: str, ours: list[float], peer: list[float], facts: dict[str, Any]) -> dict[str, Any]:
    rate, other = statistics.median(ours), statistics.median(peer) if peer else None
    theirs = f"{other:9.3f} {rate / other:6.2f}x" if other else f"{'-':>9} {'-':>7}"
    print(f"{name:24} {rate:8.2f} {theirs} {format_size(facts['peak_bytes']):>9} {facts['failcnt']:5}", flush=True)
    return {"case": name, "ours": rate, "peer": other, **facts}


def summary(rows: list[dict[str, Any]], versions: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": "memory_limit",
        "cpu": read_cpu().model,
        "threads": options.threads,
        "versions": versions | {"python": platform.python_version()},
        "medians": {item["case"]: {OURS: item["ours"], PEER: item["peer"]} for item in rows},
        "ratios": {f"{item['case']} vs {PEER}": item["ours"] / item["peer"] for item in rows if item["peer"]},
        "cases": {item.pop("case"): item for item in rows},
    }


if __name__ == "__main__":
    main()
