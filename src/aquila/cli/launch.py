"""`aquila launch`: one training run on every machine of a hostfile."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from aquila.launch.preflight import Plan, Report
    from aquila.train.flagai_keys import Translation
    from aquila.train.recipe import Recipe


def launch(
    hostfile: Annotated[Path, typer.Argument(metavar="HOSTFILE", help="One `HOST slots=N` a line; N is its devices.")],
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="Recipe, YAML of the original (FlagAI), or the folder of a run to go on with."
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [EXP] [KEY.SUB=VALUE]...",
            help="Model to train, name of the experiment, and changes to the recipe.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the head machine; 0: a free one.")] = 0,
    restarts: Annotated[
        int, typer.Option(min=0, help="Times that a run is started again after a rank has failed.")
    ] = 3,
    python: Annotated[str | None, typer.Option(help="Python on every machine. Default: this one.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder that all machines share; a run is OUT/EXP/VERSION. Default: checkpoints_out."),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE that every machine gets, beside NCCL_* and its like.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Ask the machines whether they are ready, and stop there.")
    ] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="Print a batch script for Slurm, and stop there.")] = False,
) -> None:
    """Train on all machines of HOSTFILE: ask them, start torchrun on each, show and keep what they say.

    The first machine is the head. One machine needs no ssh; others are reached by ssh without a password. Ctrl-C saves
    and stops all of them; the same command with the folder of the run goes on from there.
    """
    import sys

    from aquila.launch.hostfile import read_hostfile
    from aquila.launch.preflight import Plan

    hosts = read_hostfile(hostfile)
    settings = dict(_setting(item) for item in env or [])
    run = _existing_run(recipe, words or []) if recipe.is_dir() else _new_run(hostfile, recipe, words or [], out)
    plan = Plan(hosts, python or sys.executable, Path.cwd(), run.folder, port or run.port)
    with _discarded_unless_begun(run.folder, begun=recipe.is_dir()) as begin:
        if slurm:
            _print_script(plan, run, restarts)
            begin()
            return
        _check_recipe(run, sum(host.slots for host in hosts))
        reports = _preflight(plan)
        if not check:
            begin()
    if not check:
        if run.choose_precision:
            run.arguments.append(_precision(reports))
        _run(plan, reports, run.arguments, restarts=restarts, settings=settings)


@dataclass
class _Run:
    """A run that is about to begin or go on: its folder, what follows `python -m`, the port that its file names."""

    folder: Path
    arguments: list[str]
    port: int = 0
    choose_precision: bool = False


def _setting(text: str) -> tuple[str, str]:
    import os

    from aquila.errors import ConfigError

    name, equals, value = text.partition("=")
    if not name.isidentifier():
        raise ConfigError(
            f"--env {text!r} is not a variable; write --env NAME=VALUE, or --env NAME to pass on its value"
        )
    if not equals and name not in os.environ:
        raise ConfigError(f"--env {name}: is not set here; write --env {name}=VALUE")
    return name, value if equals else os.environ[name]


def _existing_run(run_dir: Path, words: list[str]) -> _Run:
    from aquila.errors import ConfigError
    from aquila.train.run_dir import RECIPE

    if not (run_dir / RECIPE).is_file():
        raise ConfigError(f"{run_dir}: is not the folder of a run, it has no {RECIPE}; give a recipe or a run's folder")
    names = [word for word in words if "=" not in word]
    if names:
        raise ConfigError(
            f"{names[0]!r}: a run goes on with its own model and folder; after it only key.sub=value may come"
        )
    folder = run_dir.resolve()
    return _Run(folder, ["aquila", "train", str(folder), *words])


def _new_run(hostfile: Path, recipe: Path, words: list[str], out: Path | None) -> _Run:
    """Makes the folder of a new run, with its recipe and a copy of what it was made from."""
    import shutil

    from aquila.errors import ConfigError
    from aquila.train.run_dir import DEFAULT_FOLDER, RECIPE, save_recipe

    overrides = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word]
    if len(names) > 2:
        raise ConfigError(f"{names[2]!r} is one word too many; after the recipe come MODEL, EXP and key.sub=value")
    model, experiment = (*names, None, None)[:2]
    settings, original = _read_recipe(recipe, model, overrides)
    wanted = experiment or (original.experiment if original else None) or recipe.stem
    folder = _version_folder((DEFAULT_FOLDER if out is None else out) / wanted)
    for file in (hostfile, recipe):
        shutil.copyfile(file, folder / (f"given-{RECIPE}" if file.name == RECIPE else file.name))
    save_recipe(settings.model_copy(update={"run_dir": str(folder)}), folder)
    run = _Run(folder, ["aquila", "train", str(folder)])
    if original is not None:
        run.port = original.master_port or 0
        run.choose_precision = not any(word.startswith("parallel.precision=") for word in overrides)
        run.choose_precision &= "precision" not in original.recipe.get("parallel", {})
    return run


def _read_recipe(path: Path, model: str | None, overrides: list[str]) -> "tuple[Recipe, Translation | None]":
    """The recipe, and how it came about if the file is one of the original's."""
    from aquila.config import read_yaml
    from aquila.errors import ConfigError
    from aquila.train.flagai_keys import is_flagai, translate
    from aquila.train.recipe import load_recipe

    data = read_yaml(path)
    if not is_flagai(data):
        return load_recipe([path], [*_model_override(data, model), *overrides]), None
    translated = translate(data, where=str(path), model=model)
    for line in translated.lines:
        _say(line)
    if "data" not in translated.recipe and not any(word.startswith("data.") for word in overrides):
        raise ConfigError(
            f"{path}: does not say what to train on, the original's scripts had that in their code; add "
            "data.path=PREFIX with the shard's path, without .bin or .idx"
        )
    return load_recipe([], [*_as_overrides(translated.recipe), *overrides]), translated


def _as_overrides(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """`{train: {lr: 0.1}}` as `train.lr=0.1`; JSON is YAML."""
    import json

    found = []
    for key, value in tree.items():
        inner = isinstance(value, dict)
        found += _as_overrides(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}={json.dumps(value)}"]
    return found


def _model_override(data: dict[str, Any], model: str | None) -> list[str]:
    """MODEL on the command line is a preset to begin from nothing, or else the weights to go on from."""
    if model is None:
        return []
    folder = Path("checkpoints_in") / model
    if data.get("stage") == "pretrain":
        return [f"model={model}"]
    return [f"init.checkpoint={folder if folder.is_dir() else model}"]


def _version_folder(experiment: Path) -> Path:
    """A new folder named after the hour, as the original's; a second run of that hour gets a number of its own."""
    from datetime import datetime

    version = datetime.now().astimezone().strftime("%Y%m%d%H")
    for number in range(1, 1000):
        folder = experiment / (version if number == 1 else f"{version}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder.resolve()
    raise FileExistsError(17, "has a thousand runs of this hour", str(experiment))


@contextmanager
def _discarded_unless_begun(folder: Path, *, begun: bool) -> Generator[Callable[[], None]]:
    """Removes the folder of a new run again, unless the run begins."""
    import shutil

    marks = [begun]
    try:
        yield lambda: marks.append(True)
    finally:
        if not any(marks):
            shutil.rmtree(folder)
            for parent in list(folder.parents)[:2]:  # OUT/EXP and OUT, where nothing else is in them
                with suppress(OSError):
                    parent.rmdir()


def _check_recipe(run: _Run, world: int) -> None:
    """Makes the plan of the run here, once, before many machines find out that it cannot be made."""
    import logging

    from aquila.train.plan import make_plan
    from aquila.train.run_dir import open_recipe

    recipe, _ = open_recipe(run.folder, run.arguments[3:])
    logger = logging.getLogger("aquila")
    level = logger.level
    logger.setLevel(logging.ERROR)  # rank 0 will say the same again
    try:
        make_plan(recipe, world)
    finally:
        logger.setLevel(level)


def _preflight(plan: "Plan") -> "list[Report]":
    """Shows what every machine answered. `LaunchError` when one cannot take part."""
    from rich.console import Console
    from rich.table import Table

    from aquila.errors import LaunchError
    from aquila.launch.preflight import ask_all

    reports = ask_all(plan)
    table = Table("machine", "slots", "devices", "Python", "torch", "aquila", "", box=None, pad_edge=False)
    for report in reports:
        facts = report.facts
        devices = str(facts["devices"] or f"{facts['cores']} cores") if facts else "?"
        versions = [str(facts.get(name) or "none") for name in ("python", "torch", "aquila")] if facts else ["?"] * 3
        verdict = "ready" if not report.problems else "not ready"
        table.add_row(report.host.label, str(report.host.slots), devices, *versions, verdict)
    Console(stderr=True, highlight=False).print(table)
    problems = [f"{report.host.label}: {problem}" for report in reports for problem in report.problems]
    for problem in problems[:-1]:
        _say(problem)
    if problems:
        count = sum(1 for report in reports if report.problems)
        more = f" ({count} of {len(reports)} machines are not ready, see above)" if len(problems) > 1 else ""
        raise LaunchError(problems[-1] + more)
    return reports


def _print_script(plan: "Plan", run: _Run, restarts: int) -> None:
    from aquila.launch.slurm import batch_script

    arguments = list(run.arguments)
    if run.choose_precision:
        arguments.append("parallel.precision=bf16")
        _say(
            "fp16: not in the file -> parallel.precision: bf16, for the accelerators that the script asks for; "
            "parallel.precision=fp16 if they are older than that"
        )
    print(batch_script(plan, arguments, name=run.folder.parent.name, max_restarts=restarts), end="")


def _precision(reports: "list[Report]") -> str:
    """For a file of the original that does not say: half precision where there are accelerators, as its scripts had."""
    devices = all(report.facts["devices"] for report in reports)
    bf16 = devices and all(report.facts["bf16"] for report in reports)
    chosen = f"parallel.precision={'bf16' if bf16 else 'fp16' if devices else 'fp32'}"
    _say(f"fp16: not in the file -> {chosen.replace('=', ': ')}, from what the machines have")
    return chosen


def _run(
    plan: "Plan", reports: "list[Report]", arguments: list[str], *, restarts: int, settings: dict[str, str]
) -> None:
    from aquila.launch.torchrun import Job, Launch

    logs = sorted(plan.run_dir.glob("*.log.txt"))  # a run that goes on adds to its log
    yaml = next(
        (file.name for file in sorted(plan.run_dir.glob("*.yaml")) if file.name != "recipe.yaml"), "recipe.yaml"
    )
    log_file = logs[0] if logs else plan.run_dir / f"{yaml}.log.txt"  # where the original put it
    run_id = f"{plan.run_dir.parent.name}-{plan.run_dir.name}"
    job = Job(arguments, reports[0].facts["port"], run_id, restarts, settings)
    for line in (f"NODES_NUM {len(plan.hosts)}", f"exp_{plan.run_dir.name}", f"LOGFILE {log_file}"):
        print(line, flush=True)
    cores = [report.facts["cores"] for report in reports]
    code = Launch(plan, job, cores, log_file, lambda line: print(line, flush=True)).run()
    if code:
        _say(f"stopped; `aquila launch HOSTFILE {plan.run_dir}` goes on from the last checkpoint")
        raise typer.Exit(code)


def _say(text: str) -> None:
    import sys

    print(text, file=sys.stderr, flush=True)
