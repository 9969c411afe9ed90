"""`aquila eval humaneval` and `humaneval-x`: from a model, or a file of samples, to a report."""

import json
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aquila.cli.eval_judge import DataOption, RuleOption, WorkersOption, make_rules, parse_ks
from aquila.cli.eval_model import DeviceOption, DtypeOption, JsonOption, ModelOption, QuantizeOption
from aquila.cli.main import INTERRUPTED
from aquila.cli.sandbox import Unsafe, Walls, choose_isolation

if TYPE_CHECKING:
    from aquila.evaluate.coding import CodeRun, Progress
    from aquila.evaluate.presets import Preset
    from aquila.evaluate.run_folder import RunFolder
    from aquila.evaluate.sampling import Settings, Source
    from aquila.evaluate.tasks import Benchmark
    from aquila.evaluate.verdict_cache import VerdictCache

UrlOption = Annotated[
    str | None, typer.Option("--url", help="A server with OpenAI's routes, such as http://127.0.0.1:8000/v1.")
]
KeyOption = Annotated[str | None, typer.Option("--api-key", help="For --url.", envvar="OPENAI_API_KEY")]
UrlModelOption = Annotated[
    str | None, typer.Option("--url-model", help="The server's name for the model; the first it lists.")
]
ConcurrentOption = Annotated[int, typer.Option("--concurrent", min=1, help="Requests to --url at once.")]
SamplesOption = Annotated[Path | None, typer.Option("--samples", help="Judge this file of samples instead of a model.")]
NOption = Annotated[int | None, typer.Option("--n", "-n", min=1, help="Samples a task; 1 by default.")]
TemperatureOption = Annotated[
    str | None, typer.Option("--temperature", "-T", help="One, or some with commas: a run each. 0 is greedy.")
]
TopPOption = Annotated[float | None, typer.Option(help="Draw among tokens that make up this probability.")]
TopKOption = Annotated[int, typer.Option(help="Draw among the k likeliest tokens; 0: all.")]
TokensOption = Annotated[int | None, typer.Option(help="Longest answer, in tokens; 512 by default.")]
KOption = Annotated[str | None, typer.Option("-k", help="Which pass@k; 1,10,100 by default.")]
PresetOption = Annotated[
    str | None, typer.Option(help="greedy, codex, aquilacode-2023, aquila-zh or bigcode; options given win.")
]
StyleOption = Annotated[str | None, typer.Option("--prompt-style", help="bare, comment, tag, chat or chat-zh.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Only the first so many tasks.")]
OutOption = Annotated[
    Path | None, typer.Option(help="The run's folder; below eval_runs/ by default. The same command goes on with it.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of the run; each sample has one that follows from it.")]
MemoryOption = Annotated[str | None, typer.Option(help="Of the process that runs the model, as 2GiB.")]
TimeoutOption = Annotated[float | None, typer.Option(min=0.1, max=86400, help="Seconds for a sample's tests.")]
NoCacheOption = Annotated[bool, typer.Option("--no-verdict-cache", help="Judge what was judged in other runs too.")]


def humaneval(
    model: ModelOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    url_model: UrlModelOption = None,
    concurrent: ConcurrentOption = 8,
    samples: SamplesOption = None,
    n: NOption = None,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = 0,
    max_new_tokens: TokensOption = None,
    k: KOption = None,
    preset: PresetOption = None,
    prompt_style: StyleOption = None,
    limit: LimitOption = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    data: DataOption = None,
    rule: RuleOption = "trusted",
    timeout: TimeoutOption = None,
    workers: WorkersOption = None,
    no_verdict_cache: NoCacheOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    memory_limit: MemoryOption = None,
    isolation: Walls = None,
    unsafe: Unsafe = False,
    as_json: JsonOption = False,
) -> None:
    """Pass@k of a model on HumanEval: 164 Python functions, judged from outside a sandbox."""
    _evaluate("humaneval", ("python",), locals())


def humaneval_x(
    languages: Annotated[
        str, typer.Option(help="Which of python, cpp, java, js, go and rust, with commas between.")
    ] = "python,cpp,java,js,go",
    model: ModelOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    url_model: UrlModelOption = None,
    concurrent: ConcurrentOption = 8,
    samples: SamplesOption = None,
    n: NOption = None,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = 0,
    max_new_tokens: TokensOption = None,
    k: KOption = None,
    preset: PresetOption = None,
    prompt_style: StyleOption = None,
    limit: LimitOption = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    data: DataOption = None,
    rule: RuleOption = "trusted",
    timeout: TimeoutOption = None,
    workers: WorkersOption = None,
    no_verdict_cache: NoCacheOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    memory_limit: MemoryOption = None,
    isolation: Walls = None,
    unsafe: Unsafe = False,
    as_json: JsonOption = False,
) -> None:
    """Pass@k of a model on HumanEval-X: the same 164 tasks in several languages. What has no tools here is skipped."""
    from aquila.errors import ConfigError
    from aquila.sandbox.toolchains import language_of

    names = tuple(dict.fromkeys(language_of(name.strip()) for name in languages.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"--languages {languages!r} names none; give some of python,cpp,java,js,go,rust")
    _evaluate("humaneval-x", names, locals())


def translation(
    source: Annotated[str, typer.Option(help="The language to translate from.")] = "python",
    languages: Annotated[str, typer.Option(help="To translate to, with commas between.")] = "cpp,java,js,go",
    model: ModelOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    url_model: UrlModelOption = None,
    concurrent: ConcurrentOption = 8,
    n: NOption = None,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = 0,
    max_new_tokens: TokensOption = None,
    k: KOption = None,
    preset: PresetOption = None,
    limit: LimitOption = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    data: Annotated[Path | None, typer.Option("--data", help="A folder or checkout with HumanEval-X's files.")] = None,
    timeout: TimeoutOption = None,
    workers: WorkersOption = None,
    no_verdict_cache: NoCacheOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    memory_limit: MemoryOption = None,
    isolation: Walls = None,
    unsafe: Unsafe = False,
    as_json: JsonOption = False,
) -> None:
    """Pass@k of a model that translates HumanEval-X's solutions from one language to others, in CodeGeeX's prompt."""
    from aquila.errors import ConfigError
    from aquila.evaluate.data_files import open_benchmark
    from aquila.sandbox.toolchains import language_of

    options = {**locals(), "samples": None, "prompt_style": "bare", "rule": "trusted"}
    if data is not None and data.is_file():
        raise ConfigError(f"--data {data} is one language's file, and two are needed: give the folder with both")
    given = language_of(source)
    names = [language_of(name.strip()) for name in languages.split(",") if name.strip()]
    wanted = tuple(name for name in dict.fromkeys(names) if name != given)
    if not wanted:
        raise ConfigError(f"--languages {languages!r} names none but {given}; give some of python,cpp,java,js,go")
    options["translate_from"] = open_benchmark("humaneval-x", given, data)
    _evaluate("humaneval-x", wanted, options)


@dataclass(frozen=True)
class _Wish:
    """What was asked for, with a preset's values where nothing else was said."""

    settings: "tuple[Settings, ...]"  # one a temperature
    style: str
    ks: tuple[int, ...]


def _evaluate(bench: str, names: Sequence[str], options: dict[str, Any]) -> None:
    """All the runs of a command, one after the other."""
    from aquila.evaluate.coding import CodeRun
    from aquila.evaluate.prompts import stops

    _check_one_source(options)
    wish = _read_wish(options)
    walls = choose_isolation(options["isolation"], options["unsafe"])
    rules = make_rules(options["rule"], bench, options["timeout"])
    benchmarks, skipped = _benchmarks(bench, names, options["data"])
    for name, reason in skipped.items():
        print(f"{name}: skipped: {reason}", file=sys.stderr)
    plans = [
        CodeRun(
            benchmark,
            min(options["limit"] or len(benchmark.tasks), len(benchmark.tasks)),
            wish.style,
            replace(settings, stop=stops(wish.style, benchmark.language)),
            walls,
            rules,
            options["preset"],
            options["workers"],
            options.get("translate_from"),
        )
        for benchmark in benchmarks
        for settings in (wish.settings if options["samples"] is None else wish.settings[:1])
    ]
    if not plans:
        _finish([], skipped, None, options["as_json"])
        raise typer.Exit(1)
    if options["samples"] is not None:
        _judge_samples(plans[0], wish, options, skipped)
    else:
        _draw(plans, wish, options, skipped)


def _draw(plans: "list[CodeRun]", wish: _Wish, options: dict[str, Any], skipped: dict[str, str]) -> None:
    from aquila.evaluate.coding import draw_and_judge

    with open_source(options) as source:
        facts = source.facts()
        out = options["out"] or _default_out(plans, wish, source.name, options)
        folders = [out / _run_name(plan) if len(plans) > 1 or skipped else out for plan in plans]

        def work(plan: "CodeRun", folder: Path, step: "Callable[[Progress], None]") -> None:
            with _open(folder, plan, plan.facts(facts), options) as (opened, cache):
                draw_and_judge(plan, source, opened, cache=cache, on_progress=step)

        _each(plans, folders, out, work)
    _report(folders, out, wish, skipped, options["as_json"])


def _judge_samples(plan: "CodeRun", wish: _Wish, options: dict[str, Any], skipped: dict[str, str]) -> None:
    from aquila.evaluate.coding import judge_file
    from aquila.evaluate.samples_file import read_samples
    from aquila.files import sha256_file

    file: Path = options["samples"]
    samples = read_samples(file, plan.benchmark)
    name = f"{plan.benchmark.name}-{plan.benchmark.language}-{file.name.partition('.')[0]}"
    out = options["out"] or Path("eval_runs") / name

    def work(plan: "CodeRun", folder: Path, step: "Callable[[Progress], None]") -> None:
        facts = plan.facts_of_file(file.name, sha256_file(file), samples)
        with _open(folder, plan, facts, options) as (opened, cache):
            judge_file(plan, samples, opened, cache=cache, on_progress=step)

    _each([plan], [out], out, work, num_samples=len(samples))
    _report([out], out, wish, skipped, options["as_json"])


@contextmanager
def _open(
    folder: Path, plan: "CodeRun", facts: dict[str, Any], options: dict[str, Any]
) -> "Generator[tuple[RunFolder, VerdictCache | None]]":
    from aquila.evaluate.run_folder import RunFolder
    from aquila.evaluate.verdict_cache import VerdictCache

    known = nullcontext() if options["no_verdict_cache"] else VerdictCache(plan.benchmark, plan.isolation, plan.rules)
    with known as cache, RunFolder(folder, facts) as opened:
        yield opened, cache


def _each(
    plans: "list[CodeRun]", folders: list[Path], out: Path, work: Callable[..., None], *, num_samples: int | None = None
) -> None:
    """Does each run. Ctrl-C ends it with a line that says how to go on."""
    plan, total = plans[0], 0
    try:
        for plan, folder in zip(plans, folders, strict=True):
            total = num_samples or len(plan.tasks) * plan.settings.n
            with _bar(_run_name(plan), total) as step:
                work(plan, folder, step)
    except KeyboardInterrupt:
        print(f"interrupted: what is finished is in {out}; the same command goes on from there", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _check_one_source(options: dict[str, Any]) -> None:
    from aquila.errors import ConfigError

    given = [f"--{name}" for name in ("model", "url", "samples") if options.get(name) is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} were both given; the samples come from one of them")


def _read_wish(options: dict[str, Any]) -> _Wish:
    from aquila.evaluate.presets import find_preset
    from aquila.evaluate.prompts import check_style
    from aquila.evaluate.sampling import Settings

    preset = find_preset(options["preset"]) if options["preset"] else _no_preset()
    n = options["n"] or preset.n
    temperatures = _parse_temperatures(options["temperature"]) if options["temperature"] else preset.temperatures
    style = options["prompt_style"] or preset.prompt_style
    check_style(style)
    top_p = preset.top_p if options["top_p"] is None else options["top_p"]
    tokens = options["max_new_tokens"] or preset.max_new_tokens
    settings = tuple(
        Settings(n=n, temperature=t, top_p=top_p, top_k=options["top_k"], max_new_tokens=tokens, seed=options["seed"])
        for t in temperatures
    )
    return _Wish(settings, style, tuple(parse_ks(options["k"])) if options["k"] else preset.k)


def _no_preset() -> "Preset":
    from aquila.evaluate.presets import Preset

    return Preset("", n=1, temperatures=(0.0,), top_p=1.0, max_new_tokens=512, k=(1, 10, 100))


def _parse_temperatures(text: str) -> tuple[float, ...]:
    from aquila.errors import ConfigError

    try:
        return tuple(dict.fromkeys(float(word) for word in text.split(",")))
    except ValueError:
        raise ConfigError(f"--temperature {text!r}: give numbers with commas between, such as 0.2,0.8") from None


def _benchmarks(bench: str, names: Sequence[str], data: Path | None) -> "tuple[list[Benchmark], dict[str, str]]":
    """What can be judged here, and why the rest cannot."""
    from aquila.errors import ConfigError
    from aquila.evaluate.data_files import open_benchmark
    from aquila.sandbox.toolchains import MissingToolchainError, find_toolchain

    if data is not None and data.is_file() and len(names) > 1:
        raise ConfigError(f"--data {data} is one language's file; name that by --languages, or give the folder")
    found, skipped = [], {}
    for name in names:
        try:
            find_toolchain(name)
        except MissingToolchainError as error:
            skipped[name] = str(error)
            continue
        found.append(open_benchmark(bench, name, data))
    return found, skipped


@contextmanager
def open_source(options: dict[str, Any]) -> "Generator[Source]":
    _check_one_source(options)
    if options["url"] is not None:
        from aquila.evaluate.url_source import UrlSource

        server = UrlSource(
            options["url"],
            api_key=options["api_key"],
            model=options["url_model"],
            num_concurrent=options["concurrent"],
        )
        try:
            yield server
        finally:
            server.close()
        return
    from aquila.evaluate.engine_source import EngineSource
    from aquila.generate.load import load

    chosen = {name: options[name] for name in ("device", "dtype", "quantize", "memory_limit")}
    model = load(options["model"], **chosen)
    yield EngineSource(model, loaded_as={name: chosen[name] for name in ("dtype", "quantize")})


def _default_out(plans: "list[CodeRun]", wish: _Wish, model: str, options: dict[str, Any]) -> Path:
    """The same for the same settings, so that the same command goes on."""
    plan = plans[0]
    name = f"translation-{plan.source.language}" if plan.source else plan.benchmark.name
    words = [name, *dict.fromkeys(each.benchmark.language for each in plans)]
    words = words[:1] if plan.benchmark.name == "humaneval" else words
    words += ["".join(c if c.isalnum() or c in "._-" else "_" for c in Path(model).name or "model"), wish.style]
    words += [f"n{plan.settings.n}"] if plan.settings.n > 1 else []
    words += [f"t{each.temperature:g}" for each in wish.settings]
    words += [f"limit{options['limit']}"] if options["limit"] else []
    words += [f"seed{options['seed']}"] if options["seed"] else []
    return Path("eval_runs") / "-".join(words)


def _run_name(plan: "CodeRun") -> str:
    return f"{plan.benchmark.language}-t{plan.settings.temperature:g}"


@contextmanager
def _bar(name: str, total: int) -> "Generator[Callable[[Progress], None]]":
    """Samples, samples a second, what passed so far, and how long it still takes; on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("samples"),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total, note="")
        shown = bar.tasks[0]

        def step(progress: "Progress") -> None:
            judged = progress.num_judged
            share = f", {progress.num_passed / judged:.1%} passed" if judged else ""
            speed = f"{shown.speed:.1f} samples/s, " if shown.speed else ""
            note = f"{progress.num_tasks} tasks, {speed}{judged} judged{share}"
            bar.update(task, completed=progress.num_samples, note=note)

        yield step


def _report(folders: list[Path], out: Path, wish: _Wish, skipped: dict[str, str], as_json: bool) -> None:
    from aquila.evaluate.report import write_report

    for folder in folders if folders != [out] else []:
        write_report([folder], folder, ks=wish.ks)
    report = write_report(folders, out, ks=wish.ks)
    _finish(list(zip(folders, report["runs"], strict=True)), skipped, out / "report.html", as_json)
    if any(run["pass_at_k"] is None for run in report["runs"]):
        raise typer.Exit(1)


def _finish(
    runs: "list[tuple[Path, dict[str, Any]]]", skipped: dict[str, str], report: Path | None, as_json: bool
) -> None:
    from aquila.evaluate.report_words import interval, refusal, remarks, score_name

    if as_json:
        listed = [{"dir": str(folder), **run} for folder, run in runs]
        print(json.dumps({"runs": listed, "skipped": skipped, "report": report and str(report)}))
        return
    for folder, run in runs:
        print(f"{run['label']}: {run['num_judged']} samples, in {folder}")
        if reason := refusal(run):
            print(f"  {reason}")
        for name, figures in (run["pass_at_k"] or {}).items():
            print(f"  {score_name(run, name)} {interval(figures)}")
        for remark in remarks(run):
            print(f"  {remark}")
    if report is not None:
        print(f"report: {report}")


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Argument(help="The file to write; packed where it ends in .gz.")],
    format: Annotated[str, typer.Option("--format", help="openai, codegeex, evalplus or bigcode.")] = "openai",
    data: DataOption = None,
) -> None:
    """Write a run's samples as other harnesses read them."""
    from aquila.evaluate.export import export_samples

    count = export_samples(run, out, format, data)
    print(f"{out}: {count} samples")
