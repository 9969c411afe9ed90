"""`aquila eval fim`: middles that were cut out of HumanEval's solutions."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from aquila.cli.eval_code import (
    ConcurrentOption,
    KeyOption,
    LimitOption,
    SeedOption,
    UrlModelOption,
    UrlOption,
    open_source,
)
from aquila.cli.eval_judge import DataOption, WorkersOption
from aquila.cli.eval_model import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    OutOption,
    QuantizeOption,
    default_out,
    progress_bar,
)
from aquila.cli.main import INTERRUPTED
from aquila.cli.sandbox import Unsafe, Walls, choose_isolation

if TYPE_CHECKING:
    from aquila.evaluate.fim import FimRun
    from aquila.evaluate.sampling import Order


def fim(
    model: ModelOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    url_model: UrlModelOption = None,
    concurrent: ConcurrentOption = 8,
    kinds: Annotated[str, typer.Option(help="Which, with commas.")] = "single-line,multi-line,random-span",
    order: Annotated[str, typer.Option(help="psm, spm or both: the prefix first, or the suffix.")] = "psm",
    per_task: Annotated[
        int | None, typer.Option(min=1, help="Middles of a task at most; all lines, 10 of the other kinds.")
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Answers to each.")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", "-T", help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw among tokens that make up this probability.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    limit: LimitOption = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    data: DataOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    memory_limit: Annotated[str | None, typer.Option(help="Of the process that runs the model, as 2GiB.")] = None,
    isolation: Walls = None,
    unsafe: Unsafe = False,
    as_json: JsonOption = False,
) -> None:
    """Fill in the middle of HumanEval's own solutions: exact match, and the share that passes the tests."""
    from aquila.evaluate.data_files import open_benchmark
    from aquila.evaluate.engine_source import EngineSource, require_fim
    from aquila.evaluate.fim import FimRun, find_kind
    from aquila.evaluate.judge.rules import Rules
    from aquila.evaluate.report import write_report
    from aquila.evaluate.sampling import Settings

    orders = _read_orders(order, url)
    chosen = [find_kind(name.strip()) for name in dict.fromkeys(kinds.split(",")) if name.strip()]
    settings = Settings(n=n, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)
    walls = choose_isolation(isolation, unsafe)
    benchmark = open_benchmark("humaneval", "python", data)
    runs = [
        FimRun(benchmark, kind, each, settings, walls, Rules(), num_tasks=limit, per_task=per_task)
        for kind in chosen
        for each in orders
    ]
    results = []
    with open_source(locals()) as source:
        if isinstance(source, EngineSource):
            require_fim(source.model)
        facts = source.facts()
        target = out or default_out("fim", source.name, order, f"limit{limit}" if limit else "")
        for run in runs:
            folder = target / f"{run.kind}-{run.order}" if len(runs) > 1 else target
            try:
                results.append(_do(run, source, folder, facts, workers))
            except KeyboardInterrupt:
                print(f"interrupted: the same command goes on with what is in {target}", file=sys.stderr)
                sys.exit(INTERRUPTED)
    report = write_report([Path(each["dir"]) for each in results], target, ks=(1,))
    for result, described in zip(results, report["runs"], strict=True):
        result["exact_match"] = described["exact_match"]
        result["pass_at_1"] = (described["pass_at_k"] or {}).get("1")
    if as_json:
        print(json.dumps({"runs": results}))
    else:
        for result, described in zip(results, report["runs"], strict=True):
            _print(result, described)
        print(f"report: {target / 'report.html'}")
    if any(result["pass_at_1"] is None for result in results):
        raise typer.Exit(1)


def _read_orders(order: str, url: str | None) -> "tuple[Order, ...]":
    from aquila.errors import ConfigError
    from aquila.evaluate.sampling import Order

    if order == "both" and url is None:
        return get_args(Order)
    found: tuple[Order, ...] = tuple(each for each in get_args(Order) if each == order)
    if not found:
        raise ConfigError(f"--order {order!r}: there are psm, spm, and (not with --url) both")
    if url is not None and found != ("psm",):
        raise ConfigError("--order spm: a server has an order of its own; leave --order out")
    return found


def _do(run: "FimRun", source: Any, path: Path, facts: dict[str, Any], workers: int | None) -> dict[str, Any]:
    """One run from its first prompt to its last verdict."""
    from aquila.evaluate.fim import draw, judge
    from aquila.evaluate.run_folder import RunFolder

    with RunFolder(path, run.facts(facts)) as folder:
        total = len(run.spans()) * run.settings.n
        with progress_bar(total - len(folder.samples), f"{run.kind} {run.order}", "exact") as step:
            draw(run, source, folder, step)
        with progress_bar(total, "judging", "passed") as step:
            judge(run, folder, num_workers=workers, on_verdict=step)
    return {"dir": str(path), "kind": run.kind, "order": run.order, "num_middles": total}


def _print(result: dict[str, Any], described: dict[str, Any]) -> None:
    from aquila.evaluate.report_words import interval, remarks

    passed = result["pass_at_1"]
    print(f"{result['kind']}, {result['order']}: {result['num_middles']} middles, in {result['dir']}")
    print(f"  pass rate {interval(passed) if passed else 'none: the harness failed on some, see the report'}")
    for remark in remarks(described):
        print(f"  {remark}")
