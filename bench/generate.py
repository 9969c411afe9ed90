"""Prefill and decode speed of full-precision weights beside transformers, same weights, same process, in turns.

    python bench/generate.py [--quick] [--model smollm2-135m] [--dtypes fp32,bf16] [--runner native|torch]

Ours goes through `Engine` as every caller does (scheduler, sampling, streaming text included), with the runner that a
CPU gets, or with torch's; transformers runs its bare forward with a DynamicCache and takes the argmax, which is less
work than its `generate`. Nothing is guessed. Medians of the repeats; `ratio` is ours / theirs, above 1 is faster.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel

import aquila
from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.torch_model import TORCH_DTYPES, load_model
from aquila.generate.engine import Engine
from aquila.generate.request import Request
from aquila.generate.sampling import SamplingParams
from aquila.generate.torch_runner import TorchRunner
from aquila.machine import read_cpu
from aquila.model.config import to_hugging_face
from aquila.zoo.pull import pull


@dataclass(frozen=True)
class Case:
    """`batch` prompts of `prompt` tokens each, continued by `new` tokens."""

    name: str
    batch: int
    prompt: int
    new: int


CASES = (Case("alone@32", 1, 32, 48), Case("alone@512", 1, 512, 48), Case("batch8@128", 8, 128, 32))


def prompts_of(case: Case, vocab_size: int, salt: int) -> list[list[int]]:
    """Random ids, new for every repeat, so that no prefix cache answers."""
    generator = torch.Generator().manual_seed(1000 + salt)
    return torch.randint(5, vocab_size, (case.batch, case.prompt), generator=generator).tolist()


def run_ours(engine: Engine, case: Case, prompts: list[list[int]]) -> tuple[float, float]:
    """Prefill and decode tokens a second of all prompts together."""
    params = SamplingParams(temperature=0.0, max_new_tokens=case.new, ignore_eos=True)
    started = time.perf_counter()
    for prompt in prompts:
        engine.submit(Request(tuple(prompt), params))
    num_first = 0
    while num_first < case.batch:
        num_first += len(engine.step())
    prefilled = time.perf_counter()
    num_tokens = num_first
    while engine.busy:
        num_tokens += len(engine.step())
    done = time.perf_counter()
    return case.batch * case.prompt / (prefilled - started), (num_tokens - num_first) / (done - prefilled)


@torch.inference_mode()
def run_theirs(model: PreTrainedModel, case: Case, prompts: list[list[int]]) -> tuple[float, float]:
    """The same for transformers."""
    cache = DynamicCache(config=model.config)
    started = time.perf_counter()
    out = model(torch.tensor(prompts), past_key_values=cache, logits_to_keep=1)
    token = out.logits[:, -1].argmax(-1, keepdim=True)
    prefilled = time.perf_counter()
    for _ in range(case.new - 1):
        token = model(token, past_key_values=cache).logits[:, -1].argmax(-1, keepdim=True)
    done = time.perf_counter()
    return case.batch * case.prompt / (prefilled - started), case.batch * (case.new - 1) / (done - prefilled)


def transformers_model(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """transformers' model with the weights of our checkpoint."""
    checkpoint = open_checkpoint(path)
    raw = to_hugging_face(checkpoint.config, "float32")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**raw), dtype=dtype)
    ours = load_model(checkpoint, device=torch.device("cpu"), dtype=dtype)
    model.load_state_dict(ours.state_dict())
    return model.eval()


def load_engine(path: Path, dtype_name: str, runner: str) -> Engine:
    """Ours with the weights in a dtype, on the native kernels or on torch."""
    if runner == "native":
        return aquila.load(path, device="cpu", dtype=dtype_name, lookup=False).engine
    checkpoint = open_checkpoint(path)
    model = load_model(checkpoint, device=torch.device("cpu"), dtype=TORCH_DTYPES[dtype_name])
    return Engine(TorchRunner(model), checkpoint.load_tokenizer())


def measure(path: Path, dtype_name: str, repeats: int, runner: str) -> list[dict]:
    """One row a case and phase: medians of both and their ratio."""
    dtype = TORCH_DTYPES[dtype_name]
    checkpoint = open_checkpoint(path)
    engine = load_engine(path, dtype_name, runner)
    theirs = transformers_model(path, dtype)
    rows = []
    for case in CASES:
        ours_runs, theirs_runs = [], []
        for repeat in range(repeats + 1):
            prompts = prompts_of(case, checkpoint.config.vocab_size, repeat)
            ours_runs.append(run_ours(engine, case, prompts))
            theirs_runs.append(run_theirs(theirs, case, prompts))
        for phase, name in enumerate(("prefill", "decode")):
            ours = statistics.median(run[phase] for run in ours_runs[1:])  # the first pair warms up
            peer = statistics.median(run[phase] for run in theirs_runs[1:])
            row = {"case": f"{name} {case.name} {dtype_name}", "ours": ours, "transformers": peer, "ratio": ours / peer}
            rows.append(row)
            print(f"{row['case']:28} {ours:9.1f} {peer:9.1f}   {row['ratio']:.2f}x", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtypes", default="fp32,bf16", help="bf16 pays where the CPU has AVX512-BF16 or AMX")
    parser.add_argument("--runner", choices=("native", "torch"), default="native")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fp32 only, one repeat")
    options = parser.parse_args()
    dtypes, repeats = (["fp32"], 1) if options.quick else (options.dtypes.split(","), options.repeats)
    path = pull(options.model)
    cpu = read_cpu()
    print(f"{cpu.model}, {torch.get_num_threads()} threads, torch {torch.__version__}; tokens/s, median of {repeats}")
    print(f"{'':28} {'aquila':>9} {'transf.':>9}")
    rows = [row for dtype in dtypes for row in measure(path, dtype, repeats, options.runner)]
    summary = {
        "name": "generate",
        "model": options.model,
        "runner": options.runner,
        "cpu": cpu.model,
        "threads": torch.get_num_threads(),
        "versions": {
            "aquila": aquila.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "medians": {row["case"]: {"ours": row["ours"], "transformers": row["transformers"]} for row in rows},
        "ratios": {f"{row['case']} vs transformers": row["ratio"] for row in rows},
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    if "GOMP_SPINCOUNT" not in os.environ:
        # as the command line does, and only read when torch loads: without it two models in one process spin each
        # other to a halt (0.8 and 3.9 tokens/s instead of 29 and 19), which is true of no user's program
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"GOMP_SPINCOUNT": "3000"})
    main()
