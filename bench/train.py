"""Training speed on a CPU beside transformers' Trainer, litgpt and a plain nanoGPT-style loop, in turns.

    python bench/train.py [--quick] [--repeats 7] [--litgpt-python PYTHON] [--transformers-python PYTHON]

One Llama, one text, fp32, AdamW, clipping, a process a side, and only one of them computes at a time. A peer runs
compiled and not, and its faster way counts. Then fine-tuning: our packed rows beside rows padded to the longest of
the batch, as collators do. `share` is the part of the fp32 matrix product that this machine measures which a step
achieves (6 N + 12 L H Q T a token)."""

import argparse
import json
import os
import platform
import statistics
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aquila.machine import read_cpu
from aquila.model.config import ModelConfig
from aquila.tokenizer.train import train_tokenizer
from aquila.train.flops import flops_per_token, measure_gemm
from side_by_side.worker import SideError, Worker
from training.sft_data import write_conversations
from training.shard import write_checkpoint, write_tokens

VOCAB, SEQ, BATCH, LR = 8192, 256, 16, 1e-3


@dataclass(frozen=True)
class Size:
    name: str
    hidden: int
    wide: int
    layers: int
    heads: int

    def model(self) -> dict[str, Any]:
        return {
            "vocab_size": VOCAB,
            "hidden_size": self.hidden,
            "intermediate_size": self.wide,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": 2048,
        }


SIZES = {"quick": Size("2x128", 128, 352, 2, 4), "full": Size("6x384", 384, 1024, 6, 6)}
PEERS = {
    "transformers": ("transformers_side", "AQUILA_BENCH_TRANSFORMERS_PYTHON", "transformers"),
    "litgpt": ("litgpt_side", "AQUILA_BENCH_LITGPT_PYTHON", "litgpt"),
    "nanogpt": ("nanogpt_side", "AQUILA_BENCH_NANOGPT_PYTHON", "torch"),
}


def main() -> None:
    options = parse()
    size = SIZES["quick" if options.quick else "full"]
    steps, repeats = (3, options.repeats or 2) if options.quick else (6, options.repeats or 7)
    with tempfile.TemporaryDirectory() as folder:
        made = prepare(Path(folder), size, quick=options.quick)
        speeds, versions = compare_peers(made, size, options, steps=steps, repeats=repeats)
        sft = compare_packing(made, size, options, steps=steps, repeats=repeats)
    peak = measure_gemm(1024)
    report(size, options, speeds, versions, sft, peak)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller model, fewer turns, nothing compiled")
    parser.add_argument("--repeats", type=int, help="turns of each side; 7, and 2 with --quick")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    for name, (_, variable, package) in PEERS.items():
        default = os.environ.get(variable, sys.executable)
        parser.add_argument(f"--{name}-python", default=default, help=f"interpreter with {package} (${variable})")
    return parser.parse_args()


def prepare(folder: Path, size: Size, *, quick: bool) -> dict[str, Any]:
    """A vocabulary from the standard library's sources, their ids, and conversations; what each side reads."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(library.glob("*.py"))[: 60 if quick else 160]
    texts = [file.read_text(encoding="utf-8") for file in files]
    tokenizer = train_tokenizer(texts, vocab_size=VOCAB)
    tokenizer.save(folder / "tokenizer")
    ids = [tokenizer.encode(text) for text in texts]
    tokens = np.concatenate([np.asarray(each, np.int32) for each in ids])
    np.save(folder / "tokens.npy", tokens)
    write_tokens(folder / "tokens", tokens, VOCAB)
    write_conversations(folder / "conversations.jsonl", tokenizer, tokens)
    write_checkpoint(folder / "base", ModelConfig(**size.model()), tokenizer)
    return {"folder": folder, "model": size.model()}


def recipe(made: dict[str, Any], data: dict[str, Any], batch: int, *, compile: bool) -> dict[str, Any]:
    return {
        "stage": "pretrain",
        "model": made["model"],
        "tokenizer": str(made["folder"] / "tokenizer"),
        "data": data,
        "train": {
            "steps": 100_000,
            "global_batch_size": batch,
            "micro_batch_size": batch,
            "lr": LR,
            "schedule": "constant",
            "warmup_steps": 0,
        },
        "parallel": {"compile": compile},
    }


def start_sides(made: dict[str, Any], size: Size, options: argparse.Namespace) -> dict[str, Worker]:
    """Ours, and each peer that can run, in each of its modes."""
    data = {"path": str(made["folder"] / "tokens"), "sequence_length": SEQ, "document_mask": False, "packing": "concat"}
    task = {
        "threads": options.threads,
        "tokens": str(made["folder"] / "tokens.npy"),
        "vocab_size": VOCAB,
        "hidden_size": size.hidden,
        "intermediate_size": size.wide,
        "num_layers": size.layers,
        "num_heads": size.heads,
        "batch": BATCH,
        "seq": SEQ,
        "lr": LR,
    }
    modes = (False,) if options.quick else (False, True)
    sides = {}
    for compile in modes:
        way = "compiled" if compile else "eager"
        ours = {"threads": options.threads, "recipe": recipe(made, data, BATCH, compile=compile)}
        sides[f"aquila {way}"] = Worker("aquila", sys.executable, "ours", ours, package="training")
        for name, (module, _, _) in PEERS.items():
            python = getattr(options, f"{name}_python")
            try:
                sides[f"{name} {way}"] = Worker(name, python, module, task | {"compile": compile}, package="training")
            except SideError as error:
                print(f"{name} {way} is left out: {str(error).splitlines()[-1][:160]}")
    return sides


def compare_peers(
    made: dict[str, Any], size: Size, options: argparse.Namespace, *, steps: int, repeats: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Tokens a second of each side and mode, medians of turns."""
    sides = start_sides(made, size, options)
    turns: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            seconds = side.ask({"steps": steps})["seconds"]
            if turn:  # the first one compiles and warms up
                turns[name].append(steps * BATCH * SEQ / seconds)
    versions = {side.name: side.facts["version"] for side in sides.values()}
    for side in sides.values():
        side.close()
    return {name: statistics.median(rates) for name, rates in turns.items()}, versions


def compare_packing(
    made: dict[str, Any], size: Size, options: argparse.Namespace, *, steps: int, repeats: int
) -> dict[str, float]:
    """Learned tokens a second, packed and padded."""
    batch, length = 2 if options.quick else 4, 1024
    sides = {}
    for name, packing in (("packed", "best_fit"), ("padded", "none")):
        data = {
            "sft": str(made["folder"] / "conversations.jsonl"),
            "template": "aquila-v1",
            "sequence_length": length,
            "packing": packing,
        }
        settings = recipe(made, data, batch if packing == "best_fit" else 4 * batch, compile=False)
        settings |= {"stage": "sft", "init": {"checkpoint": str(made["folder"] / "base")}, "model": None}
        question = {"threads": options.threads, "recipe": settings, "trim": packing == "none"}
        sides[name] = Worker(name, sys.executable, "ours", question, package="training")
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            answer = side.ask({"steps": max(2, steps // 2)})
            if turn:
                rates[name].append(answer["targets"] / answer["seconds"])
    for side in sides.values():
        side.close()
    return {name: statistics.median(values) for name, values in rates.items()}


def report(
    size: Size,
    options: argparse.Namespace,
    speeds: dict[str, float],
    versions: dict[str, str],
    sft: dict[str, float],
    peak: float,
) -> None:
    work = flops_per_token(ModelConfig(**size.model()), SEQ)
    ours = max(rate for name, rate in speeds.items() if name.startswith("aquila"))
    print(f"{read_cpu().model}, {options.threads} threads; tokens/s, medians; peak product {peak / 1e9:.0f} Gflop/s")
    ratios = {}
    for name, rate in speeds.items():
        print(f"{name:24} {rate:10.0f}   {rate * work / peak:5.0%} of the peak")
    for peer in PEERS:
        theirs = [rate for name, rate in speeds.items() if name.startswith(f"{peer} ")]
        if theirs:
            ratios[peer] = ours / max(theirs)
            print(f"aquila / {peer:15} {ratios[peer]:10.2f}x")
    ratios["sft padded"] = sft["packed"] / sft["padded"]
    packed, padded = sft["packed"], sft["padded"]
    print(f"fine-tuning, learned tokens/s: packed {packed:.0f}, padded {padded:.0f}, {packed / padded:.2f}x")
    facts = {
        "name": "train",
        "cpu": read_cpu().model,
        "threads": options.threads,
        "model": size.name,
        "versions": versions | {"python": platform.python_version()},
        "medians": speeds | {f"sft {name}": rate for name, rate in sft.items()},
        "share of gemm peak": {name: rate * work / peak for name, rate in speeds.items()},
        "ratios": ratios,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
