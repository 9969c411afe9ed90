"""Runs cases on every side in turns and prints what came out: a table, then one line of JSON."""

import argparse
import json
import platform
import random
import statistics
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from aquila.checkpoint.checkpoint import Checkpoint
from aquila.checkpoint.open import open_checkpoint
from aquila.errors import AquilaError
from aquila.machine import read_cpu
from side_by_side.models import bench_file
from side_by_side.peers import PEERS, add_options, find_peers
from side_by_side.worker import SideError, Worker

OURS = "aquila"
FIRST_ID = 20  # below it are special tokens
LOUD = 0.1  # cores that others may take before the figures are doubtful
HOPELESS = 0.75  # a mode below this share of its side's fastest, in the first round that counts, is not run again


@dataclass(frozen=True)
class Case:
    """`batch` prompts of `prompt` tokens each, continued by `new` tokens."""

    model: str
    prompt: int
    new: int
    batch: int = 1
    peers: tuple[str, ...] = ("llama.cpp",)

    @property
    def name(self) -> str:
        together = f" x{self.batch}" if self.batch > 1 else ""
        return f"{Path(self.model).name.removesuffix('.gguf')}{together}@{self.prompt}"

    def prompts(self, vocab_size: int, repeat: int) -> list[list[int]]:
        """Random ids, other ones for every repeat, so that no prefix cache answers."""
        generator = random.Random(f"{self.name} {repeat}")
        return [[generator.randrange(FIRST_ID, vocab_size) for _ in range(self.prompt)] for _ in range(self.batch)]


@dataclass(frozen=True)
class Bench:
    """A claim about speed.

    Attributes:
        name: of the script.
        doc: its docstring.
        phase: `prefill` or `decode`, the part that is reported.
        cases: in order, those of one model together; the sides load a model once.
        quick: number of cases that `--quick` runs, from the first on.
        limit: what the machine gives so many threads at best: bytes or operations a second.
        figure: one more value for ours, from the checkpoint, our tokens/s and that limit.
        figure_name: the heading of that column.
    """

    name: str
    doc: str
    phase: str
    cases: tuple[Case, ...]
    quick: int
    limit: Callable[[int], float]
    figure: Callable[[Checkpoint, float, float], float]
    figure_name: str


@dataclass(eq=False)
class Turn:
    """A side in one of its modes, and the tokens/s of each round."""

    side: Worker
    mode: dict[str, Any]
    rates: list[float] = field(default_factory=list)


@dataclass
class Result:
    """Tokens/s of all prompts together, medians; a peer's are those of its fastest mode."""

    case: Case
    rates: dict[str, float]
    modes: dict[str, dict]
    figure: float
    limit: float
    others: float


@dataclass
class Report:
    results: list[Result] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def run_bench(bench: Bench) -> None:
    """The whole script: options, cases, table, JSON."""
    names = list(dict.fromkeys(peer for case in bench.cases for peer in case.peers))
    options = _parse(bench, names)
    cases = _choose(bench, options)
    peers = find_peers(options, names)
    print(f"{read_cpu().model}, {options.threads} threads; tokens/s, median of {options.repeats}, best mode of a peer")
    print(f"{'':24} {OURS:>9} {'peer':>9} {'ratio':>7}  {bench.figure_name:>13} {'others':>7}", flush=True)
    report = Report()
    for model, group in groupby(cases, key=lambda case: case.model):
        try:
            _run_model(bench, model, list(group), peers, options, report)
        except (AquilaError, SideError) as error:
            print(f"{model} is left out: {error}", flush=True)
    loud = max((result.others for result in report.results), default=0.0)
    if loud > LOUD:
        print(f"other processes took up to {loud:.2f} cores: repeat on a quiet machine before relying on these figures")
    print(json.dumps(_summary(bench, options, report)))


def _parse(bench: Bench, peers: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=bench.doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest model only, 3 repeats")
    parser.add_argument("--models", help="of the cases' models only these, or GGUF files to run the first cases on")
    parser.add_argument("--repeats", type=int, help="5 when not given")
    parser.add_argument("--threads", type=int, default=2)
    add_options(parser, peers)
    options = parser.parse_args()
    options.repeats = options.repeats or (3 if options.quick else 5)
    return options


def _choose(bench: Bench, options: argparse.Namespace) -> list[Case]:
    cases = list(bench.cases[: bench.quick] if options.quick else bench.cases)
    if options.models is None:
        return cases
    chosen = []
    for model in options.models.split(","):
        if model.endswith(".gguf"):
            first = [case for case in bench.cases if case.model == bench.cases[0].model]
            chosen += [Case(model, case.prompt, case.new, case.batch) for case in first]
        else:
            chosen += [case for case in cases if case.model == model]
    if not chosen:
        sys.exit(f"--models {options.models}: the cases have {', '.join(dict.fromkeys(c.model for c in cases))}")
    return chosen


def _run_model(
    bench: Bench,
    model: str,
    cases: list[Case],
    peers: dict[str, str],
    options: argparse.Namespace,
    report: Report,
) -> None:
    path = bench_file(model)
    checkpoint = open_checkpoint(path)
    wanted = [name for name in peers if any(name in case.peers for case in cases)]
    with _sides(path, checkpoint, {name: peers[name] for name in wanted}, options.threads) as sides:
        for side in sides:
            report.versions[side.name] = side.facts["version"]
        for case in cases:
            limit = bench.limit(options.threads)
            beside = [side for side in sides if side.name == OURS or side.name in case.peers]
            rates, modes, others = _measure(bench, case, beside, checkpoint.config.vocab_size, options.repeats)
            figure = bench.figure(checkpoint, rates[OURS], limit)
            report.results.append(Result(case, rates, modes, figure, limit, others))
            _print_row(report.results[-1])


@contextmanager
def _sides(path: Path, checkpoint: Checkpoint, peers: dict[str, str], threads: int) -> Generator[list[Worker]]:
    """A worker a side, ours first, all loaded. A peer that cannot load the model is left out, with a line."""
    settings = {"path": str(path), "threads": threads, "shape": checkpoint.config.model_dump(mode="json")}
    # as the command line does: threads of torch that have nothing to do sleep soon
    ours = {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "3000"}
    with ExitStack() as stack:
        sides = [Worker(OURS, sys.executable, "ours", settings, ours)]
        stack.callback(sides[0].close)
        for name, python in peers.items():
            try:
                sides.append(Worker(name, python, PEERS[name].module, settings))
            except SideError as error:
                print(f"{name} is left out for {path.stem}: {error}", flush=True)
            else:
                stack.callback(sides[-1].close)
        yield sides


def _measure(
    bench: Bench, case: Case, sides: Sequence[Worker], vocab_size: int, repeats: int
) -> tuple[dict[str, float], dict[str, dict], float]:
    """Medians of every side, the modes they belong to, and the median of cores that others took."""
    kind = "batch" if case.batch > 1 else "alone"
    turns = [Turn(side, mode) for side in sides for mode in side.facts["modes"][kind]]
    others: list[float] = []
    num_tokens = case.batch * (case.new if bench.phase == "decode" else case.prompt)
    for repeat in range(repeats + 1):
        prompts = case.prompts(vocab_size, repeat)
        for turn in turns:
            answer = turn.side.ask({"prompts": prompts, "new": case.new, "mode": turn.mode})
            if repeat:  # the first round warms up
                turn.rates.append(num_tokens / answer[f"{bench.phase}_seconds"])
                others.append(answer["others"])
        if repeat == 1:
            fastest = {side.name: max(turn.rates[0] for turn in turns if turn.side is side) for side in sides}
            turns = [turn for turn in turns if turn.rates[0] > HOPELESS * fastest[turn.side.name]]
    rates: dict[str, float] = {}
    modes: dict[str, dict] = {}
    for turn in turns:
        rate = statistics.median(turn.rates)
        if rate > rates.get(turn.side.name, 0.0):
            rates[turn.side.name], modes[turn.side.name] = rate, turn.mode
    return rates, modes, statistics.median(others)


def _print_row(result: Result) -> None:
    ours = result.rates[OURS]
    for peer in [name for name in result.rates if name != OURS] or [None]:
        theirs = f"{result.rates[peer]:9.1f} {ours / result.rates[peer]:6.2f}x" if peer else f"{'-':>9} {'-':>7}"
        mode = " ".join(f"{key}={value:d}" for key, value in result.modes[peer].items()) if peer else ""
        row = f"{result.case.name:24} {ours:9.1f} {theirs}  {result.figure:13.2f} {result.others:7.2f}"
        print(f"{row}  {peer or ''} {mode}".rstrip(), flush=True)


def _summary(bench: Bench, options: argparse.Namespace, report: Report) -> dict[str, Any]:
    results = report.results
    return {
        "name": bench.name,
        "cpu": read_cpu().model,
        "threads": options.threads,
        "versions": report.versions | {"python": platform.python_version()},
        "medians": {result.case.name: result.rates for result in results},
        "ratios": {
            f"{result.case.name} vs {peer}": result.rates[OURS] / rate
            for result in results
            for peer, rate in result.rates.items()
            if peer != OURS
        },
        bench.figure_name: {result.case.name: result.figure for result in results},
        "modes": {result.case.name: result.modes for result in results},
        "limit_giga_per_second": {result.case.name: result.limit / 1e9 for result in results},
        "others_cores": {result.case.name: result.others for result in results},
    }
