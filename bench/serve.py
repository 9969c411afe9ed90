"""Throughput of a server at 1, 4 and 16 streams, and time to the first token behind a shared prefix of 1,000 tokens.

    python bench/serve.py [--quick] [--model FILE.gguf] [--llama-python PYTHON] [--transformers-python PYTHON]

Ours beside llama.cpp's server (as llama-cpp-python has it) and `transformers serve`: the same weights from one GGUF
file (transformers gets them as fp32: it reads no quantised file fast), the same machine and client, one server at a
time, all sides in each round. The client is that of `aquila bench serve`; answers are greedy, and every side is asked
to go on to the same length. Tokens are those that a server's usage counts, else pieces of text. A ratio above 1: ours
is ahead (throughput ours / theirs, time theirs / ours).
"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

import aquila
from aquila.checkpoint.convert import convert
from aquila.cli.traffic import Target, first_model, measure_level, measure_shared_prefix
from aquila.errors import AquilaError, GenerationError
from aquila.machine import read_cpu
from side_by_side.models import bench_file

LEVELS = (1, 4, 16)
PREFIX_TOKENS = 1000
CONTEXT = 2048
START_SECONDS = 180


@dataclass
class Side:
    """A server: how to start it (with `{port}`), and what it reached in each round."""

    name: str
    command: list[str]
    model: str | None = None  # what requests call it; the first that it lists when None
    rates: dict[int, list[float]] = field(default_factory=dict)  # streams -> tokens/s
    first_token: list[float] = field(default_factory=list)  # seconds, behind the shared prefix
    failed: str | None = None


@contextmanager
def running(side: Side) -> Generator[str, None, None]:
    """The server's address, once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [part.replace("{port}", str(port)) for part in side.command]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:  # a full pipe would stop a talkative server
        process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | offline)
        try:
            _wait(process, url, said)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, said: IO[str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            paths = ("/health", "/v1/models")  # llama-cpp-python has the second only, transformers answers 500 to it
            if any(httpx.get(url + path, timeout=5).status_code == 200 for path in paths):
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    said.seek(0)
    raise GenerationError(f"the server did not come up in {START_SECONDS} s: {said.read()[-500:]}")


def measure(side: Side, number: int, *, requests: int, new_tokens: int, shared: int) -> None:
    """One round of one side."""
    with running(side) as url:
        target = Target(url, side.model or first_model(url), ignore_eos=False)  # transformers refuses unknown fields
        options = {"prompt_tokens": 64, "new_tokens": new_tokens}
        measure_level(target, 1, num_requests=1, run=f"{number}/warm-up", **options)
        for streams in LEVELS:
            level = measure_level(target, streams, num_requests=streams * requests, run=str(number), **options)
            if level.num_failed:
                side.failed = f"{level.num_failed} of {level.num_requests} requests failed at {streams} streams"
            side.rates.setdefault(streams, []).append(level.tokens_per_second)
            print(f"  {side.name:14} {streams:3d} streams {level.tokens_per_second:9.1f} tokens/s", flush=True)
        times = measure_shared_prefix(target, prefix_tokens=PREFIX_TOKENS, num_requests=shared, run=str(number))
        side.first_token += times
        print(f"  {side.name:14} first token {statistics.median(times) * 1000:9.1f} ms", flush=True)


def sides(options: argparse.Namespace) -> list[Side]:
    """Ours, and the peers that can run here; says which are missing."""
    file = bench_file(options.model)
    cpu = read_cpu()
    threads = str(cpu.num_cores or cpu.num_usable_threads)
    found = [Side("aquila", [sys.executable, "-m", "aquila", "serve", str(file), "--port", "{port}"])]
    llama = ["-m", "llama_cpp.server", "--model", str(file), "--port", "{port}", "--n_ctx", str(CONTEXT)]
    llama += ["--n_threads", threads, "--n_threads_batch", threads, "--interrupt_requests", "False", "--cache", "True"]
    if _imports(options.llama_python, "llama_cpp.server.app"):
        found.append(Side("llama.cpp", [options.llama_python, *llama]))
    else:
        print(f"llama.cpp is left out: {options.llama_python} lacks llama-cpp-python[server]; give --llama-python")
    if _imports(options.transformers_python, "transformers, fastapi, uvicorn"):
        folder = _hugging_face_folder(file)
        command = [options.transformers_python, "-m", "transformers.cli.transformers", "serve", str(folder)]
        command += ["--port", "{port}", "--host", "127.0.0.1", "--device", "cpu", "--continuous-batching"]
        command += ["--cb-block-size", "32", "--cb-num-blocks", "1024"]  # else its pool takes most of the memory
        found.append(Side("transformers", command, model=str(folder)))
    else:
        print(f"transformers is left out: {options.transformers_python} lacks transformers[serving]")
    return found


def _imports(python: str, modules: str) -> bool:
    if shutil.which(python) is None:
        return False
    return subprocess.run([python, "-c", f"import {modules}"], capture_output=True, check=False).returncode == 0


def _hugging_face_folder(file: Path) -> Path:
    """The weights of the file as transformers reads them, in the precision that a CPU computes in."""
    folder = file.with_name(f"{file.stem}-hf-fp32")
    if not (folder / "config.json").is_file():
        print(f"making {folder}", flush=True)
        convert(file, folder, to="hf", dtype="fp32")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--model", default="smollm2-135m", help="bench model, or a GGUF file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama-python", default=os.environ.get("AQUILA_BENCH_LLAMA_PYTHON", sys.executable))
    parser.add_argument("--transformers-python", default=sys.executable)
    parser.add_argument("--only", action="append", help="a side by name; may be repeated")
    options = parser.parse_args()
    rounds, new_tokens = (1, 32) if options.quick else (options.rounds, 64)
    chosen = [side for side in sides(options) if not options.only or side.name in options.only]
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        for side in chosen:
            try:
                measure(side, number, requests=1 if options.quick else 3, new_tokens=new_tokens, shared=3)
            except AquilaError as error:
                side.failed = str(error)
                print(f"  {side.name:14} failed: {error}", flush=True)
    _report(chosen, options.model, rounds, new_tokens)


def _report(chosen: list[Side], model: str, rounds: int, new_tokens: int) -> None:
    rates = {side.name: {n: statistics.median(found) for n, found in side.rates.items()} for side in chosen}
    waits = {side.name: statistics.median(side.first_token) for side in chosen if side.first_token}
    print(f"\n{'tokens/s':14}" + "".join(f"{n:>9}" for n in LEVELS) + f"{'first token behind 1,000 (ms)':>32}")
    for side in chosen:
        cells = "".join(f"{rates[side.name].get(n, 0.0):9.1f}" for n in LEVELS)
        print(f"{side.name:14}{cells}{waits.get(side.name, 0.0) * 1000:32.1f}  {side.failed or ''}")
    ratios: dict[str, dict[str, float]] = {}
    for name in rates:
        if name != "aquila" and "aquila" in rates:
            ratios[name] = {str(n): rates["aquila"][n] / rate for n, rate in rates[name].items() if rate}
            if name in waits and "aquila" in waits:
                ratios[name]["first_token"] = waits[name] / waits["aquila"]
    result = {
        "name": "serve",
        "aquila": aquila.__version__,
        "cpu": read_cpu().model,
        "python": platform.python_version(),
        "model": model,
        "rounds": rounds,
        "new_tokens": new_tokens,
        "tokens_per_second": rates,
        "first_token_seconds": waits,
        "failed": {side.name: side.failed for side in chosen if side.failed},
        "ratios": ratios,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
