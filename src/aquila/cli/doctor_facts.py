"""What `aquila doctor` looks at, beyond `aquila.machine`: installed packages, hubs, the cache, the native kernels.

Everything is plain data that goes into the report as it is.
"""

import os
import re
import shutil
import threading
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

DISTRIBUTION = "aquila-lm"
HUB_TIMEOUT_SECONDS = 3.0


def installed_packages() -> dict[str, str | None]:
    """Aquila and its direct dependencies -> their installed version, None for a missing one."""
    names = [DISTRIBUTION, *(name for name, extra in _requirements() if extra is None)]
    return {name: _version(name) for name in names}


def installed_extras() -> dict[str, list[str]]:
    """Each extra of the package -> what is missing from it; an empty list is a complete extra."""
    extras: dict[str, list[str]] = {}
    for name, extra in _requirements():
        if extra is not None:
            missing = [name] if _version(name) is None else []
            extras[extra] = extras.get(extra, []) + missing
    return extras


def _requirements() -> list[tuple[str, str | None]]:
    """(package, the extra it belongs to) of every direct dependency, from the installed metadata."""
    found = []
    for line in (metadata.requires(DISTRIBUTION) if _version(DISTRIBUTION) else None) or []:
        specification, _, marker = line.partition(";")
        name = re.match(r"[A-Za-z0-9._-]+", specification)
        extra = re.search(r"""extra\s*==\s*['"]([\w-]+)['"]""", marker)
        if name:
            found.append((name[0], extra[1] if extra else None))
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cache_facts(folder: Path) -> dict[str, Any]:
    """The cache folder, whether pulls can write to it, the room on its disk, and the models in it."""
    from aquila.zoo.pull import local_path
    from aquila.zoo.registry import all_models

    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    models = []
    for entry in all_models():
        if path := local_path(entry.name):
            files = path.rglob("*") if path.is_dir() else [path]
            num_bytes = sum(file.stat().st_size for file in files if file.is_file())
            models.append({"name": entry.name, "path": str(path), "num_bytes": num_bytes})
    return {
        "path": str(folder),
        "writable": existing.is_dir() and os.access(existing, os.W_OK | os.X_OK),
        "free_bytes": shutil.disk_usage(existing).free,
        "models": models,
    }


def kernel_facts() -> dict[str, Any] | None:
    """Instruction sets that the native kernels have here, the one in use, and their threads; None without them."""
    from aquila.kernels.native import usable_kernels
    from aquila.machine import read_cpu

    usable = usable_kernels()
    return {"used": usable[0], "usable": usable, "threads": read_cpu().num_usable_threads} if usable else None


def hub_urls(environment: Mapping[str, str]) -> dict[str, str]:
    """The hubs that models are pulled from; `HF_ENDPOINT` replaces the address of the first."""
    return {
        "Hugging Face": environment.get("HF_ENDPOINT") or "https://huggingface.co",
        "hf-mirror": "https://hf-mirror.com",
        "ModelScope": "https://modelscope.cn",
    }


def is_offline(environment: Mapping[str, str]) -> bool:
    return environment.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}


def check_hubs(urls: Mapping[str, str], timeout_seconds: float = HUB_TIMEOUT_SECONDS) -> list[dict[str, Any]]:
    """Asks all hubs at once; any answer below 500 counts. Takes no longer than the timeout."""
    import httpx  # noqa: F401  loaded here, so that the timeout counts waiting only

    answers: dict[str, dict[str, Any]] = {}
    threads = [
        threading.Thread(target=_ask, args=(name, url, timeout_seconds, answers), daemon=True)
        for name, url in urls.items()
    ]
    deadline = time.monotonic() + timeout_seconds
    for thread in threads:
        thread.start()
    for thread in threads:  # a name server that hangs must not hold up the report: daemon threads are left behind
        thread.join(max(0.0, deadline - time.monotonic()))
    silence = {"reachable": False, "detail": f"no answer within {timeout_seconds:g} s", "seconds": None}
    return [{"name": name, "url": url, **answers.get(name, silence)} for name, url in urls.items()]


def _ask(name: str, url: str, timeout_seconds: float, answers: dict[str, dict[str, Any]]) -> None:
    import httpx

    started = time.monotonic()
    try:
        status = httpx.head(url, timeout=timeout_seconds).status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError) as error:  # the last two: an unusable proxy
        answers[name] = {"reachable": False, "detail": str(error) or type(error).__name__, "seconds": None}
        return
    seconds = round(time.monotonic() - started, 2)
    answers[name] = {"reachable": status < 500, "detail": f"HTTP {status}", "seconds": seconds}
