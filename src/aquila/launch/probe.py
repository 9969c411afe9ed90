"""Asked on every machine before a run: what is here? The text of this file is sent there, so it imports nothing of
ours.

    python -c TEXT FOLDER TOKEN_FILE HEAD_ADDRESS PORT

Prints one line of JSON. HEAD_ADDRESS is empty except on the head, whose PORT (0: any) must be free.
"""

import importlib
import importlib.metadata
import json
import os
import socket
import sys
import time


def main(folder, token_file, head_address, port):
    facts = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "time": time.time(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "folder": os.path.isdir(folder) and os.access(folder, os.W_OK),
        "token": read(token_file),
    }
    for name, package in (("aquila", "aquila-lm"), ("torch", "torch")):
        try:
            facts[name] = version(name, package)
        except Exception as error:  # noqa: BLE001  whatever keeps it from being imported is the finding
            facts[name] = None
            facts[name + "_error"] = type(error).__name__ + ": " + str(error).split("\n")[0]
    facts["devices"], facts["bf16"] = devices() if facts["torch"] else (0, False)
    if head_address:
        facts["port"], facts["port_error"] = claim(head_address, int(port))
    sys.stdout.write("aquila-probe " + json.dumps(facts) + "\n")


def version(name, package):
    """Of an installed package. torch is imported only where it has devices to count: that takes seconds."""
    if name == "torch" and not may_have_devices():
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # on the path, but not installed
            pass
    return str(importlib.import_module(name).__version__)


def may_have_devices():
    """Whether a driver has left a device; on anything but Linux only torch can say."""
    names = ("nvidiactl", "nvidia0", "kfd", "dxg", "davinci_manager", "accel", "hl0")
    return not sys.platform.startswith("linux") or any(os.path.exists("/dev/" + name) for name in names)


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def devices():
    """How many accelerators torch sees, and whether they compute in bf16."""
    if "torch" not in sys.modules:
        return 0, False
    torch = importlib.import_module("torch")
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is None or not accelerator.is_available():
        return 0, False
    kind = accelerator.current_accelerator().type
    module = getattr(torch, kind, None)
    supported = getattr(module, "is_bf16_supported", None)
    return accelerator.device_count(), bool(supported()) if supported else True


def claim(address, port):
    """The port, free at this moment, and None; or None and why it is not."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(where)
            server.listen(1)
            return server.getsockname()[1], None
    except OSError as error:
        return None, error.strerror or str(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
