"""`aquila eval report` and `compare`: what runs show, and whether two of them differ."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from aquila.evaluate.compare import Comparison

KsOption = Annotated[str, typer.Option("-k", help="Which pass@k.")]
_SHOWN_TASKS = 20


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs, or folders of such.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to write; a single RUN's own directory by default."),
    ] = None,
    leaderboard: Annotated[bool, typer.Option("--leaderboard", help="One table of all runs instead.")] = False,
    k: KsOption = "1,10,100",
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json, or leaderboard.json.")] = False,
) -> None:
    """Write report.json, report.md and report.html: scores with intervals, tasks, failures, times, contamination.

    A run that has samples without a verdict gets no score; then the exit code is 1.
    """
    from aquila.cli.eval_judge import parse_ks
    from aquila.errors import ConfigError, EvaluationError
    from aquila.evaluate.leaderboard import write_leaderboard
    from aquila.evaluate.report import write_report
    from aquila.evaluate.report_words import refusal

    ks = parse_ks(k)
    if out is None and len(runs) > 1:
        raise ConfigError("--out: several runs are given; say which folder the files go to")
    place = out or runs[0]
    if leaderboard:
        board = write_leaderboard(runs, place, ks=ks)
        _print_leaderboard(board, place, as_json=as_json)
        return
    found = write_report(runs, place, ks=ks)
    problems = [f"{run['label']}: {text}" for run in found["runs"] if (text := refusal(run))]
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        _print_scores(found)
        print(f"written: {place / 'report.html'}, report.md, report.json")
    if problems:
        sys.stdout.flush()
        raise EvaluationError("; ".join(problems))


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Directory of a run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Directory of another, on the same tasks.")],
    k: KsOption = "1,10,100",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, with every task that differs.")] = False,
) -> None:
    """Whether B is better than A: McNemar's test, differences of pass@k with 95 % intervals, and which tasks differ."""
    from aquila.cli.eval_judge import parse_ks
    from aquila.evaluate.compare import compare as compare_runs
    from aquila.evaluate.run_results import read_run

    found = compare_runs(read_run(a), read_run(b), ks=parse_ks(k))
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        _print_comparison(found)


def _print_scores(found: dict) -> None:
    from aquila.evaluate.markup import clean
    from aquila.evaluate.report_words import interval, remarks, score_name

    for run in found["runs"]:
        scores = [f"{score_name(run, k)} {interval(each)}" for k, each in (run["pass_at_k"] or {}).items()]
        print(clean(f"{run['label']}: {'; '.join(scores) or 'no score'}"))
        for text in remarks(run):
            print(f"  {clean(text)}")


def _print_leaderboard(board: dict, place: Path, *, as_json: bool) -> None:
    from aquila.evaluate.markup import clean
    from aquila.evaluate.report_words import interval

    if as_json:
        print(json.dumps(board, ensure_ascii=False))
        return
    for each in board["boards"]:
        print(f"{each['bench']}, {each['language']}")
        for run in each["runs"]:
            scores = [f"pass@{k} {interval(figures)}" for k, figures in run["pass_at_k"].items()]
            rank = "-" if run["rank"] is None else str(run["rank"])
            print(clean(f"  {rank:>3} {run['model']}: {'; '.join(scores) or run['state']}"))
    print(f"written: {place / 'leaderboard.html'}, leaderboard.md, leaderboard.json")


def _print_comparison(found: "Comparison") -> None:
    from aquila.evaluate.markup import clean

    print(f"A: {clean(found.a)}\nB: {clean(found.b)}")
    left_out = f"; {found.num_left_out} that only one has are left out" if found.num_left_out else ""
    print(f"{found.bench} ({found.language}), {found.num_tasks} tasks{left_out}")
    for name, ours, theirs in found.settings:
        print(clean(f"  not the same: {name}: A {json.dumps(ours)}, B {json.dumps(theirs)}"))
    for each in found.differences:
        verdict = "" if each.decided else "; that may be chance"
        print(
            f"pass@{each.k}: A {each.a:.1%}, B {each.b:.1%}, difference {100 * each.difference:+.1f} points "
            f"(95 % interval {100 * each.low:+.1f} to {100 * each.high:+.1f}{verdict})"
        )
    if found.mcnemar is not None:
        split = found.mcnemar
        print(
            f"both solved {split.both}, only A {split.only_a}, only B {split.only_b}, neither {split.neither}; "
            f"McNemar's exact test: p = {split.p:.3g}"
        )
    for task_id, (n, c), (m, d) in found.tasks[:_SHOWN_TASKS]:
        print(clean(f"  {task_id}: A {c} of {n}, B {d} of {m}"))
    if len(found.tasks) > _SHOWN_TASKS:
        print(f"  and {len(found.tasks) - _SHOWN_TASKS} more tasks; --json lists all")
