"""The pages that `aquila doctor` prints: readable in 60 columns and without colour, no word cut."""

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from aquila.config import format_size
from aquila.kernels.native import SWITCH
from aquila.machine import may_have_accelerator

_NAME_WIDTH = 13
_COLOURS = {"yes": "green", "no": "red"}
_TO_N = "to N: with at most N tokens of context."
_CAPTIONS = {
    "fp16, w8, w4": "The native kernels compute in each of these: --dtype fp16, --quantize w8 (8.5 bits a weight) or "
    "w4 (4.5 bits, the embedding in w8); without either, as the file has its weights. Where it says no, or too few "
    "tokens, --memory-limit reads from the disk what does not fit; `aquila doctor --model NAME` says what that gives.",
    "fp32, bf16": "Without the native kernels torch computes, in fp32 unless told otherwise (--dtype bf16); it widens "
    "quantised files.",
    "bf16": "torch computes in bf16 there; it widens quantised files.",
}


def show(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    _print_lines(console, (*_machine_lines(report), *_software_lines(report)))
    for place, fits in (report["fits"] or {}).items():
        console.print()
        _print_fits(console, place, fits)
    console.print()
    for warning in report["warnings"]:
        _print_note(console, warning, "warning:", "yellow")
    for problem in report["problems"]:
        _print_note(console, problem, "broken:", "red")
    if report["ok"]:
        _print_note(console, "Try `aquila chat`, or `aquila generate 'def fib(n):'`.", "Ready.", "green")


def show_model(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    _print_lines(console, _model_lines(report))
    console.print()
    if report["limits"]:
        console.print(_fullest(console, _limit_table(report, pace=True), _limit_table(report, pace=False)))
    else:
        smallest = format_size(report["smallest_limit_bytes"])
        _print_note(console, f"the smallest memory limit is {smallest}.", "Too large for this machine:", "red")
    free = report["no_limit"]
    console.print()
    _print_note(
        console,
        "From disk: weights read from the file in every step. Tokens/s: one sequence, little text, no guessed tokens; "
        "what sets the pace behind it. i8: keys and values rounded to 8 bits.",
    )
    if may_have_accelerator():
        _print_note(
            console, f"These are limits for --device {report['device']}; an accelerator's are its own memory's."
        )
    if not free["fits"]:
        _print_note(console, f"All in memory takes {format_size(free['needed_bytes'])}, which is not free now.")
    if report["weights"]["format"] in ("fp16", "bf16", "f16", "f32"):
        _print_note(console, "Fewer bits: the same question with --quantize w4 or w8.")


def _print_lines(console: Console, lines: Iterable[tuple[str, str]]) -> None:
    for name, value in lines:
        for index, part in enumerate(_wrap(value, console.width - _NAME_WIDTH)):
            shown = f"{'' if index else name:{_NAME_WIDTH}}"
            console.print(f"[bold]{shown}[/]{escape(part)}", soft_wrap=True)


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width`, cut at spaces, and inside a path at its slashes. What is longer stays whole."""
    lines = [""]
    words = re.findall(r"[^ ]+ *", text)
    parts = [part for word in words for part in (re.findall(r"[^/]*/?", word) if word.count("/") > 1 else [word])]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines]


def _print_note(console: Console, text: str, label: str = "", colour: str = "") -> None:
    """A paragraph, perhaps with a coloured label in front."""
    first, *others = _wrap(f"{label} {text}".lstrip(), console.width)
    console.print(f"[{colour}]{label}[/]" if label else "", end="", soft_wrap=True)
    for line in (first.removeprefix(label), *others):
        console.print(escape(line), soft_wrap=True)


def _fullest(console: Console, *tables: Table) -> Table:
    """The first of the tables, the fullest one first, that fits; the last one where none does."""
    boundless = console.options.update(width=1000)
    fitting = (table for table in tables if Measurement.get(console, boundless, table).maximum <= console.width)
    return next(fitting, tables[-1])


def _machine_lines(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    cpu, memory = report["cpu"], report["memory"]
    yield "System", report["platform"]
    yield (
        "CPU",
        f"{cpu['model']}, {cpu['num_cores'] or '?'} cores, {cpu['num_usable_threads']} threads for Aquila",
    )
    yield "", " ".join(cpu["features"]) or "no vector instructions that Aquila knows"
    if report["problems"]:
        pass
    elif report["native"]:
        yield "Kernels", _kernels(report["native"])
    else:
        reason = "switched off by AQUILA_NATIVE=0" if os.environ.get(SWITCH) == "0" else "the native ones are not there"
        yield "Kernels", f"{reason}; torch computes, slower and in more memory"
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


def _kernels(native: dict[str, Any]) -> str:
    others = ", ".join(native["usable"][1:])
    return f"{native['used']}, {native['threads']} threads" + (f" (also usable: {others})" if others else "")


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


def _print_fits(console: Console, place: str, fits: list[dict[str, Any]]) -> None:
    """One row a preset: GiB of weights and full context at each precision, and the verdict; as much as has room."""
    precisions = ", ".join(dict.fromkeys(fit["precision"] for fit in fits))
    levels = [{"shape": True, "sizes": True}, {"shape": True, "sizes": False}, {"shape": False, "sizes": False}]
    tables = [_fit_table(fits, **level) for level in levels]
    table = _fullest(console, *tables)
    unit = "(GiB: weights, keys and values)" if table is tables[0] else ""
    _print_note(console, unit, f"What fits into {place}", "bold")
    console.print(table)
    _print_note(console, f"{_TO_N} {_CAPTIONS[precisions]}")


def _fit_table(fits: list[dict[str, Any]], *, shape: bool, sizes: bool) -> Table:
    table = _new_table()
    table.add_column("model", no_wrap=True)  # GiB: weights and keys and values of the whole context
    if shape:
        table.add_column("size", no_wrap=True, justify="right")
        table.add_column("context", no_wrap=True, justify="right")
    for precision in dict.fromkeys(fit["precision"] for fit in fits):
        if sizes:
            table.add_column("GiB", no_wrap=True, justify="right")
        table.add_column(precision, no_wrap=True)
    rows: dict[str, list[str]] = {}
    for fit in fits:
        facts = [_count(fit["num_parameters"]), str(fit["max_context"])] if shape else []
        row = rows.setdefault(fit["preset"], [fit["preset"], *facts])
        colour = _COLOURS.get(fit["verdict"], "yellow")
        row += [f"{fit['num_bytes'] / 2**30:.1f}"] if sizes else []
        row.append(f"[{colour}]{fit['verdict']}[/]")
    for row in rows.values():
        table.add_row(*row)
    return table


def _model_lines(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    weights, rates = report["weights"], report["rates"]
    yield "Model", f"{report['model']}, {report['num_layers']} layers, context {report['full_context']}"
    yield "Weights", f"{format_size(weights['num_bytes'])} as {weights['format']}"
    if report["path"] is None:
        yield "", f"not here yet: `aquila pull {report['model']}`"
    elif weights["packed"]:
        yield "", f"read from {weights['file']}"
    else:
        yield "", f"packed on first use into {weights['file']}"
    yield "Kernels", f"{rates['kernels']}, {rates['threads']} threads"
    if report["memory"]:
        memory = report["memory"]
        yield "Memory", f"{format_size(memory['total_bytes'])}, {format_size(memory['available_bytes'])} available"
    yield "", f"{_rate(rates['memory'])} of weights through the kernels, measured"
    past = "past the page cache" if rates["direct"] else "through the page cache: its file system has no direct reads"
    yield "Disk", f"{_rate(rates['disk'])} {past}, measured"


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e9:.3g} GB/s" if bytes_per_second >= 1e9 else f"{bytes_per_second / 1e6:.3g} MB/s"


def _limit_table(report: dict[str, Any], *, pace: bool) -> Table:
    table = _new_table()
    table.add_column("limit", no_wrap=True, justify="right")
    for name in ("in memory", "context"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("KV", no_wrap=True)
    for name in ("from disk", "tokens/s"):
        table.add_column(name, no_wrap=True, justify="right")
    if pace:
        table.add_column("pace", no_wrap=True)
    for line in report["limits"]:
        table.add_row(
            format_size(line["limit_bytes"]),
            f"{line['pinned_share']:.0%}",
            str(line["context"]),
            line["kv_type"],
            format_size(line["streamed_bytes"]) if line["streamed_bytes"] else "nothing",
            f"{line['tokens_per_second']:.3g}",
            *([line["paced_by"]] if pace else []),
            style="bold" if line["limit_bytes"] == report["asked_bytes"] else "",
        )
    return table


def _new_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def _count(num_parameters: int) -> str:
    """`135M`, `7.3B`."""
    return f"{num_parameters / 1e9:.1f}B" if num_parameters >= 1e9 else f"{num_parameters / 1e6:.3g}M"
