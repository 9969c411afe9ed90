"""`aquila doctor`: what this machine has, what is missing, which models fit. One report, a page or JSON.

`doctor_facts` looks, `doctor_fit` computes, `doctor_page` prints; this file decides what is a problem.
"""

import json
import os
import platform
import sys
from typing import Annotated, Any

import typer

LOW_DISK_BYTES = 1 << 30  # less than one small model with room to convert it


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a page.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the hubs whether they answer.")] = False,
) -> None:
    """Look at this machine: Python, torch, CPU, memory, disk, accelerators, cache, hubs, and what fits.

    Exits with 1 when something essential is broken.
    """
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
        "accelerators": None,
        "fits": None,
    }
    if not report["problems"]:  # what follows needs every package
        _examine_cache(report)
        _examine_hubs(report, offline=offline or doctor_facts.is_offline(os.environ))
        _examine_accelerators(report)
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


def _examine_accelerators(report: dict[str, Any]) -> None:
    from aquila.cli.doctor_facts import accelerators

    try:
        report["accelerators"] = accelerators()
    except (ImportError, OSError) as error:
        version = report["packages"]["torch"]
        report["problems"].append(
            f"torch {version} cannot be imported ({error}); reinstall it with `pip install torch`"
        )


def _examine_fits(report: dict[str, Any]) -> None:
    from aquila.cli.doctor_fit import fit_presets

    places = {each["device"]: each["free_bytes"] for each in report["accelerators"] or [] if each["free_bytes"]}
    if report["memory"]:
        places = {"memory": report["memory"]["available_bytes"], **places}
    report["fits"] = {
        place: [{**vars(fit), "verdict": fit.verdict} for fit in fit_presets(free_bytes)]
        for place, free_bytes in places.items()
    }
