"""`aquila doctor`: what this machine has, what is missing, which models fit. One report, a page or JSON.

`doctor_facts` and `doctor_devices` look, `doctor_fit` computes, `doctor_page` prints; this file decides what is a
problem. With --model, `doctor_model` answers for one model.
"""

import json
import os
import platform
import sys
from typing import Annotated, Any

import typer

LOW_DISK_BYTES = 1 << 30  # less than one small model with room to convert it


def doctor(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Say what memory limits would give this model: a name, or a path."),
    ] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="With --model: a limit to ask about, as 2GiB or 2<<30.")
    ] = None,
    quantize: Annotated[str | None, typer.Option(help="With --model: its weights in w4 or w8.")] = None,
    max_context: Annotated[int | None, typer.Option(help="With --model: positions that must fit.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a page.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the hubs whether they answer.")] = False,
) -> None:
    """Look at this machine: Python, torch, CPU, memory, disk, accelerators, cache, hubs, and what fits.

    With --model, measures how fast weights come from memory and from the disk, and says what each memory limit would
    give. Exits with 1 when something essential is broken.
    """
    if model is not None:
        _about_model(model, as_json=as_json, memory_limit=memory_limit, quantize=quantize, max_context=max_context)
        return
    for option, value in (("--memory-limit", memory_limit), ("--quantize", quantize), ("--max-context", max_context)):
        if value is not None:
            from aquila.errors import ConfigError

            raise ConfigError(f"{option} is a question about a model; add --model NAME")
    from rich.console import Console

    from aquila.cli.doctor_page import show

    with Console(stderr=True).status("Looking at this machine"):
        report = examine(offline=offline)
    if as_json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        show(report)
    if report["problems"]:
        raise typer.Exit(1)


def _about_model(model: str, *, as_json: bool, **options: Any) -> None:
    from aquila.cli.doctor_model import examine_model

    report = examine_model(model, **options)
    if as_json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        from aquila.cli.doctor_page import show_model

        show_model(report)


def examine(*, offline: bool) -> dict[str, Any]:
    """The report. A section is None when a problem kept it from being looked at."""
    import aquila
    from aquila.cli import doctor_facts
    from aquila.machine import read_cpu, read_memory

    cpu, memory = read_cpu(), read_memory()
    packages = doctor_facts.installed_packages()
    report: dict[str, Any] = {
        "ok": True,
        "problems": _package_problems(packages),
        "warnings": [],
        "aquila": aquila.__version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "packages": packages,
        "extras": doctor_facts.installed_extras(),
        "cpu": vars(cpu),
        "memory": vars(memory) if memory else None,
        "cache": None,
        "hubs": None,
        "native": None,
        "accelerators": None,
        "fits": None,
    }
    if not report["problems"]:  # what follows needs every package
        _examine_cache(report)
        _examine_hubs(report, offline=offline or doctor_facts.is_offline(os.environ))
        _examine_engines(report)
        _examine_fits(report)
    report["ok"] = not report["problems"]
    return report


def _package_problems(packages: dict[str, str | None]) -> list[str]:
    missing = [name for name, version in packages.items() if version is None]
    return [f"not installed: {', '.join(missing)}; run `pip install {' '.join(missing)}`"] if missing else []


def _examine_cache(report: dict[str, Any]) -> None:
    from aquila.cli.doctor_facts import cache_facts
    from aquila.files import cache_dir

    cache = report["cache"] = cache_facts(cache_dir())
    if not cache["writable"]:
        consequence = "models cannot be pulled; set AQUILA_HOME to a folder of yours"
        report["warnings" if cache["models"] else "problems"].append(f"{cache['path']} is not writable: {consequence}")
    if cache["free_bytes"] < LOW_DISK_BYTES:
        report["warnings"].append(f"the disk of {cache['path']} is nearly full; free some space or set AQUILA_HOME")


def _examine_hubs(report: dict[str, Any], *, offline: bool) -> None:
    from aquila.cli.doctor_facts import check_hubs, hub_urls

    urls = hub_urls(os.environ)
    if offline:
        skipped = {"reachable": None, "detail": "skipped", "seconds": None}
        report["hubs"] = [{"name": name, "url": url, **skipped} for name, url in urls.items()]
        return
    report["hubs"] = check_hubs(urls)
    if not any(hub["reachable"] for hub in report["hubs"]):
        report["warnings"].append(
            "no hub answers; set HTTPS_PROXY behind a proxy or HF_ENDPOINT for a mirror, "
            "or pull without a network: `aquila pull NAME --from file`"
        )


def _examine_engines(report: dict[str, Any]) -> None:
    """torch is asked only where it would compute: a driver is there, or the native kernels are not."""
    from aquila.cli.doctor_devices import TorchError, find_accelerators
    from aquila.cli.doctor_facts import kernel_facts
    from aquila.machine import may_have_accelerator

    report["native"] = kernel_facts()
    if report["native"] and not may_have_accelerator():
        report["accelerators"] = []
        return
    try:
        report["accelerators"] = find_accelerators()
    except TorchError as error:
        version = report["packages"]["torch"]
        report["problems"].append(f"torch {version} cannot be used ({error}); reinstall it with `pip install torch`")


def _examine_fits(report: dict[str, Any]) -> None:
    from aquila.cli.doctor_fit import Engine, fit_presets

    places: dict[str, tuple[int, Engine]] = {}
    if report["memory"]:
        places["memory"] = (report["memory"]["available_bytes"], "native" if report["native"] else "torch")
    for each in report["accelerators"] or []:
        if each["free_bytes"]:
            places[each["device"]] = (each["free_bytes"], "accelerator")
    report["fits"] = {
        place: [{**vars(fit), "verdict": fit.verdict} for fit in fit_presets(free_bytes, engine)]
        for place, (free_bytes, engine) in places.items()
    }
