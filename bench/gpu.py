"""Everything about training that only an accelerator can show, in one call of under ten minutes.

    python bench/gpu.py [--quick] [--minutes 9]

1. A bf16 step beside an fp32 one: loss and gradients. 2. Tokens/s, MFU and peak memory of a slice of a 1B and of the
7B model (full width and vocabulary, fewer layers), with each technique added in turn; each beside the memory that
`aquila train estimate` says. 3. Packed documents by the varlen kernel beside one call a document. Ends with a line of
JSON."""

import argparse
import dataclasses
import gc
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from aquila.config import format_size
from aquila.model.config import ModelConfig
from aquila.model.presets import preset
from aquila.model.transformer import Transformer, causal_attention
from aquila.train.attention import document_attention
from aquila.train.estimate import Shape, estimate
from aquila.train.flops import flops_per_token, peak_flops
from aquila.train.layout import Layout
from aquila.train.optimizer import build_optimizer
from aquila.train.parallel import parallelise
from aquila.train.ranks import Ranks, start
from aquila.train.recipe import ParallelConfig, TrainConfig
from aquila.train.shards import initialise, local


@dataclass(frozen=True)
class Case:
    """A slice of a model, and how it is trained."""

    name: str
    model: ModelConfig
    rows: int
    seq: int
    parallel: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "adamw"


def billion(layers: int) -> ModelConfig:
    return preset("aquila-7b").model_copy(
        update={
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_hidden_layers": layers,
        }
    )


def cases(*, quick: bool) -> list[Case]:
    seven = preset("aquila-7b").model_copy(update={"num_hidden_layers": 2 if quick else 4})
    one = billion(4 if quick else 12)
    bf16 = {"precision": "bf16"}
    ways = {
        "fp32": {},
        "bf16": bf16,
        "bf16 compile": bf16 | {"compile": True},
        "bf16 compile selective": bf16 | {"compile": True, "activation_checkpointing": "selective"},
        "bf16 compile full": bf16 | {"compile": True, "activation_checkpointing": "full"},
    }
    found = [Case(f"1b {way}", one, 4, 2048, settings) for way, settings in ways.items() if way != "fp32" or quick]
    found += [Case(f"7b/8 {way}", seven, 4, 2048, settings) for way, settings in ways.items() if way != "fp32"]
    found.append(Case("7b/8 bf16 compile muon", seven, 4, 2048, ways["bf16 compile"], "muon"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="thinner slices, fewer steps")
    parser.add_argument("--minutes", type=float, default=9, help="begin no further case after so long")
    options = parser.parse_args()
    if not torch.accelerator.is_available():
        print("no accelerator: torch.accelerator finds none on this machine, nothing was measured")
        print(json.dumps({"name": "gpu", "device": None, "medians": {}, "ratios": {}}))
        sys.exit(0)
    began = time.monotonic()
    ranks = start(ParallelConfig(precision="bf16"))
    facts: dict[str, Any] = {"name": "gpu", "device": device_name(ranks.device), "torch": torch.__version__}
    facts["bf16 parity"] = parity(ranks)
    facts["packed"] = packed(ranks)
    facts["medians"] = {}
    print(f"{facts['device']}, torch {torch.__version__}; parity {facts['bf16 parity']}; packed {facts['packed']}")
    print(f"{'':28} {'tokens/s':>10} {'MFU':>6} {'peak memory':>12} {'estimated':>12}")
    for case in cases(quick=options.quick):
        if time.monotonic() - began > 60 * options.minutes:
            print("out of time; the rest is left out")
            break
        facts["medians"][case.name] = measure(case, ranks, steps=4 if options.quick else 8)
    print(json.dumps(facts | {"ratios": ratios(facts["medians"])}))
    ranks.close()


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def build(case: Case, ranks: Ranks) -> tuple[Transformer, torch.optim.Optimizer]:
    with torch.device("meta"):
        model = Transformer(case.model)
    parallelise(model, ranks, ParallelConfig.model_validate(case.parallel))
    model.to_empty(device=ranks.device)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02)
    train = TrainConfig.model_validate({"steps": 1, "global_batch_size": 1, "optimizer": case.optimizer})
    return model, build_optimizer(model, train, ranks)


def measure(case: Case, ranks: Ranks, *, steps: int) -> dict[str, Any]:
    """Median step of one case; prints its row."""
    torch.accelerator.reset_peak_memory_stats(ranks.device)
    found: dict[str, Any]
    try:
        found = timed(case, ranks, steps)
    except torch.OutOfMemoryError:
        print(f"{case.name:28} does not fit")
        found = {"out_of_memory": True}
    gc.collect()
    torch.accelerator.empty_cache()
    return found


def timed(case: Case, ranks: Ranks, steps: int) -> dict[str, Any]:
    model, optimizer = build(case, ranks)
    ids = torch.randint(0, case.model.vocab_size, (case.rows, case.seq), device=ranks.device)
    seconds = []
    for step in range(steps + 3):
        torch.accelerator.synchronize(ranks.device)
        started = time.perf_counter()
        loss = model(ids, labels=ids) / ids.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.accelerator.synchronize(ranks.device)
        if step >= 3:
            seconds.append(time.perf_counter() - started)
    rate = ids.numel() / statistics.median(seconds)
    parallel = ParallelConfig.model_validate(case.parallel)
    peak = peak_flops(ranks.device, parallel.precision)
    mfu = None if peak is None else rate * flops_per_token(case.model, case.seq) / peak
    memory = torch.accelerator.max_memory_allocated(ranks.device)
    shape = Shape(case.model, Layout(), parallel, case.seq, case.rows, case.optimizer)
    said = dataclasses.replace(estimate(shape), runtime=0).total
    shown = "    -" if mfu is None else f"{mfu:5.0%}"
    print(f"{case.name:28} {rate:10.0f} {shown} {format_size(memory):>12} {format_size(said):>12}")
    return {"tokens_per_second": rate, "mfu": mfu, "memory": memory, "estimated": said}


def parity(ranks: Ranks) -> dict[str, float]:
    """A bf16 step beside an fp32 one, same weights: relative difference of loss and of all gradients together."""
    config = billion(2).model_copy(update={"vocab_size": 4096})
    ids = torch.randint(0, 4096, (2, 512), generator=torch.Generator().manual_seed(0)).to(ranks.device)
    gradients, losses = [], []
    for precision in ("fp32", "bf16"):
        with torch.device("meta"):
            model = Transformer(config)
        parallelise(model, ranks, ParallelConfig.model_validate({"precision": precision}))
        model.to_empty(device=ranks.device)
        initialise(model, 0, 0.02)
        loss = model(ids, labels=ids) / ids.numel()
        loss.backward()
        losses.append(loss.item())
        pieces = [local(parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
        gradients.append(torch.cat([piece.flatten() for piece in pieces]))
    difference = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    return {"loss": abs(losses[1] / losses[0] - 1), "gradients": difference.item()}


def packed(ranks: Ranks) -> dict[str, float]:
    """Attention of rows with many documents: milliseconds a layer, forward and backward."""
    draw = np.random.default_rng(0)
    cuts = np.sort(draw.choice(np.arange(1, 4096), size=24, replace=False))
    ids = np.searchsorted(cuts, np.arange(4096), side="right")[None].repeat(4, axis=0)
    shape = (4, 4096, 32, 128)
    query, key, value = (
        torch.randn(shape, device=ranks.device, dtype=torch.bfloat16, requires_grad=True) for _ in "qkv"
    )
    ways = {"documents": document_attention(ids, ranks.device), "whole rows": causal_attention}
    found = {}
    for name, attend in ways.items():
        seconds = []
        for _ in range(8):
            torch.accelerator.synchronize(ranks.device)
            started = time.perf_counter()
            attend(0, query, key, value).sum().backward()
            torch.accelerator.synchronize(ranks.device)
            seconds.append(time.perf_counter() - started)
        found[name] = 1000 * statistics.median(seconds[3:])
    return found


def ratios(medians: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Each way beside plain bf16 of the same model."""
    found = {}
    for name, row in medians.items():
        plain = medians.get(f"{name.split()[0]} bf16", {}).get("tokens_per_second")
        if plain and "tokens_per_second" in row and not name.endswith(" bf16"):
            found[name] = row["tokens_per_second"] / plain
    return found


if __name__ == "__main__":
    main()
