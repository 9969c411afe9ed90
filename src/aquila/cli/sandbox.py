"""`aquila sandbox`: run code that nobody trusts, and see what keeps it in."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from aquila.sandbox.isolation import Isolation
    from aquila.sandbox.job import Outcome

app = typer.Typer(help="Run untrusted code, and check the walls around it.", no_args_is_help=True)

TIMED_OUT = 124  # as timeout(1) reports it
SIGNALLED = 128  # and a signal's number, as shells report it

Unsafe = Annotated[
    bool,
    typer.Option("--unsafe-no-sandbox", help="Run without walls where there are none. The code can do what you can."),
]
Walls = Annotated[str | None, typer.Option("--isolation", help="namespaces or landlock; the strongest there is.")]


def choose_isolation(wanted: str | None, unsafe: bool) -> "Isolation":
    """The walls to use. `unsafe` lets code run without, where there are none, and says so."""
    import logging

    from aquila.errors import ConfigError, SandboxError
    from aquila.sandbox.isolation import MODES, find_isolation

    if wanted == "none" or (wanted and wanted not in MODES):
        raise ConfigError(
            f"--isolation {wanted}: give namespaces or landlock; --unsafe-no-sandbox is the way to run without"
        )
    mode = next((mode for mode in MODES if mode == wanted), None)
    try:
        return find_isolation(mode)
    except SandboxError as error:
        if not unsafe:
            raise
        logging.getLogger(__name__).warning("no sandbox: the code can do whatever you can (%s)", error)
        return find_isolation("none")


@app.command()
def doctor(
    isolation: Walls = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Try every promise of the sandbox on this machine. Exit code 1 if one does not hold."""
    from aquila.sandbox.doctor import examine
    from aquila.sandbox.toolchains import LANGUAGES, MissingToolchainError, find_toolchain

    walls = choose_isolation(isolation, unsafe=False)
    guarantees = examine(walls)
    tools: dict[str, str] = {}
    missing: dict[str, str] = {}
    for language in LANGUAGES:
        try:
            tools[language] = find_toolchain(language).version()
        except MissingToolchainError as error:
            missing[language] = str(error)
    if as_json:
        found = {each.name: {"holds": each.holds, "why": each.why} for each in guarantees}
        facts = {"isolation": walls.mode, "why_not_stronger": list(walls.why_not), "guarantees": found}
        print(json.dumps(facts | {"toolchains": tools, "missing": missing}, ensure_ascii=False))
    else:
        _print_doctor(walls, [(each.name, each.holds, each.why) for each in guarantees], tools, missing)
    if not all(each.holds for each in guarantees):
        raise typer.Exit(1)


def _print_doctor(
    walls: "Isolation", rows: list[tuple[str, bool, str]], tools: dict[str, str], missing: dict[str, str]
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    print(f"walls: {walls.mode}" + "".join(f"\n  not {reason}" for reason in walls.why_not))
    table = Table("promise", "holds", "found", box=None, pad_edge=False)
    for name, holds, why in rows:
        table.add_row(name, "yes" if holds else "[bold red]no[/]", why)
    console.print(table)
    for language, version in tools.items():
        print(f"{language}: {version}")
    for language, reason in missing.items():
        print(f"{language}: {reason}")


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="A source file. stdin goes to the program.")],
    lang: Annotated[str, typer.Option("--lang", "-l", help="python, cpp, java, js, go or rust.")],
    time: Annotated[float, typer.Option(min=0.01, max=86400, help="Seconds, by the clock on the wall.")] = 10.0,
    mem: Annotated[str, typer.Option(help="Memory of each process, such as 512MiB.")] = "512MiB",
    isolation: Walls = None,
    unsafe: Unsafe = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="How it ended and what it wrote, as one JSON object.")
    ] = False,
) -> None:
    """Build and run one file in the sandbox.

    Exit code: the program's own; 124 when its time was up; 128 and the signal that killed it; 1 for another limit.
    """
    from aquila.cli.text_input import decode_utf8
    from aquila.config import parse_size
    from aquila.sandbox.box import Sandbox
    from aquila.sandbox.job import Limits
    from aquila.sandbox.programs import program_job
    from aquila.sandbox.toolchains import binds_of, find_toolchain, language_of

    language = language_of(lang)
    limits = Limits(wall_seconds=time, memory_bytes=parse_size(mem))
    source = decode_utf8(file.read_bytes(), str(file))
    tools = find_toolchain(language)
    stdin = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
    with Sandbox(choose_isolation(isolation, unsafe), binds=binds_of([tools])) as sandbox:
        job = program_job(sandbox, tools, source, limits, stdin)
        outcomes = sandbox.run(job)
    _report(outcomes[-1], built=len(outcomes) == len(job.steps), as_json=as_json)


def _report(outcome: "Outcome", *, built: bool, as_json: bool) -> None:
    from aquila.config import format_size

    if as_json:
        facts = {
            "step": "run" if built else "build",
            "status": outcome.status,
            "exit_code": outcome.code,
            "seconds": round(outcome.seconds, 4),
            "cpu_seconds": round(outcome.cpu_seconds, 4),
            "peak_memory_bytes": outcome.peak_bytes,
            "stdout": outcome.stdout.decode(errors="replace"),
            "stderr": outcome.stderr.decode(errors="replace"),
        }
        print(json.dumps(facts, ensure_ascii=False))
    else:
        with suppress(BrokenPipeError):
            sys.stdout.buffer.write(outcome.stdout)
            sys.stdout.flush()
        sys.stderr.buffer.write(outcome.stderr)
        end = f"{'ran' if built else 'did not build'}: {outcome.status}, code {outcome.code}"
        print(f"{end}, {outcome.seconds:.3f} s, {format_size(outcome.peak_bytes)}", file=sys.stderr)
    raise typer.Exit(_exit_code(outcome))


def _exit_code(outcome: "Outcome") -> int:
    if outcome.status == "timeout":
        return TIMED_OUT
    if outcome.status != "exited":
        return 1
    return outcome.code if outcome.code >= 0 else SIGNALLED - outcome.code
