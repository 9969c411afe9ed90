"""The page that `aquila doctor` prints: readable in 80 columns and without colour."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aquila.cli.doctor_fit import BYTES_PER_WEIGHT
from aquila.config import format_size

CAPTION = """\
to N: with at most N tokens of context
int8, int4: GGUF q8_0 and q4_0, which the torch runner widens to its
dtype: on a CPU fp32 (twice fp16) unless told otherwise"""
_COLOURS = {"yes": "green", "no": "red"}


def show(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in (*_machine_lines(report), *_software_lines(report)):
        grid.add_row(name, escape(value))
    console.print(grid)
    for place, fits in (report["fits"] or {}).items():
        console.print()
        console.print(_fit_table(place, fits))
    console.print()
    for warning in report["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    for problem in report["problems"]:
        console.print(f"[red]broken:[/] {escape(problem)}")
    if report["ok"]:
        console.print("[green]Ready.[/] Try `aquila chat`, or `aquila generate 'def fib(n):'`.")


def _machine_lines(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    cpu, memory = report["cpu"], report["memory"]
    yield "System", report["platform"]
    yield (
        "CPU",
        f"{cpu['model']}, {cpu['num_cores'] or '?'} cores, {cpu['num_usable_threads']} threads for Aquila",
    )
    yield "", " ".join(cpu["features"]) or "no vector instructions that Aquila knows"
    if memory:
        limit = f" (limit of the {memory['limited_by']})" if memory["limited_by"] else ""
        available = format_size(memory["available_bytes"])
        yield "Memory", f"{format_size(memory['total_bytes'])}{limit}, {available} available"
    else:
        yield "Memory", "unknown"
    devices = report["accelerators"]
    if devices is not None:
        for device in devices:
            room = f", {format_size(device['free_bytes'])} free" if device["free_bytes"] else ""
            yield "Accelerator", f"{device['device']} {device['name']}{room}"
        if not devices:
            yield "Accelerator", "none; models run on the CPU"
    if report["cache"]:
        yield "Disk", f"{format_size(report['cache']['free_bytes'])} free at {report['cache']['path']}"


def _software_lines(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Aquila", report["aquila"]
    yield "Python", f"{report['python']['version']}  {report['python']['executable']}"
    yield "torch", report["packages"].get("torch") or "not installed"
    for extra, missing in report["extras"].items():
        yield "Extra", f"{extra}: {'missing ' + ', '.join(missing) if missing else 'installed'}"
    if report["cache"]:
        models = [f"{model['name']} ({format_size(model['num_bytes'])})" for model in report["cache"]["models"]]
        yield "Models", ", ".join(models) or "none here yet; start with `aquila pull smollm2-135m`"
    for hub in report["hubs"] or []:
        yield "Hub", f"{hub['name']} {hub['url']}: {_hub_verdict(hub)}"


def _hub_verdict(hub: dict[str, Any]) -> str:
    if hub["reachable"]:
        return f"answers in {hub['seconds']} s"
    return "not asked" if hub["reachable"] is None else f"does not answer ({hub['detail']})"


def _fit_table(place: str, fits: list[dict[str, Any]]) -> Table:
    """One row a preset: GiB of weights and full context at each precision, and the verdict."""
    table = Table(
        title=f"What fits into {place}: GiB of weights and KV cache",
        caption=CAPTION,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        padding=(0, 1, 0, 0),
    )
    table.add_column("model", no_wrap=True)
    table.add_column("size", no_wrap=True, justify="right")
    table.add_column("context", no_wrap=True, justify="right")
    for precision in BYTES_PER_WEIGHT:
        table.add_column(precision, no_wrap=True)
    rows: dict[str, list[str]] = {}
    for fit in fits:
        row = rows.setdefault(fit["preset"], [fit["preset"], _count(fit["num_parameters"]), str(fit["max_context"])])
        colour = _COLOURS.get(fit["verdict"], "yellow")
        row.append(f"{fit['num_bytes'] / 2**30:5.1f} [{colour}]{fit['verdict']}[/]")
    for row in rows.values():
        table.add_row(*row)
    return table


def _count(num_parameters: int) -> str:
    """`135M`, `7.3B`."""
    return f"{num_parameters / 1e9:.1f}B" if num_parameters >= 1e9 else f"{num_parameters / 1e6:.3g}M"
