"""Accelerators, as torch sees them. `find_accelerators` asks a process of its own, whose program this file is.

Importing torch takes a second and 240 MB, and a driver that does not go with it may end the process.
"""

import json
import subprocess
import sys
from typing import Any

from aquila.errors import AquilaError

TIMEOUT_SECONDS = 60.0  # drivers have been seen to take 20


class TorchError(AquilaError):
    """torch could not be asked; the message is its own."""


def find_accelerators() -> list[dict[str, Any]]:
    """Devices that torch can use, with their memory in bytes; None for what it does not tell.

    Raises:
        TorchError: torch cannot be imported, or crashed.
    """
    command = [sys.executable, "-P", "-c", "from aquila.cli.doctor_devices import tell; tell()"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise TorchError(f"no answer within {TIMEOUT_SECONDS:g} s") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise TorchError(lines[-1] if lines else f"it ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])  # drivers print what they like before


def tell() -> None:
    print(json.dumps(_devices()))


def _devices() -> list[dict[str, Any]]:
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return []
    found = []
    module = torch.get_device_module(kind)
    for index in range(torch.accelerator.device_count()):
        properties = module.get_device_properties(index) if kind.type in {"cuda", "xpu"} else None
        found.append(
            {
                "device": f"{kind.type}:{index}",
                "name": properties.name if properties else kind.type,
                "total_bytes": properties.total_memory if properties else None,
                "free_bytes": torch.accelerator.get_memory_info(index)[0] if properties else None,
            }
        )
    return found
