"""Runs one tool in a process of its own: `python -m aquila.chat.tool_process`, order on stdin, result on stdout.

The limits are the process's own: CPU time, memory, file size, open files. What a tool prints goes to stderr, so only
the result is on stdout.
"""

import importlib
import json
import os
import sys
from typing import Any


def main() -> None:
    """Reads an order, runs the tool, writes the result as JSON."""
    order = json.load(sys.stdin)
    result_file = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _limit(order["cpu_seconds"], order["max_memory_bytes"], order["max_file_bytes"])
    result = _run(order["source"], order["name"], order["arguments"])
    with result_file:
        json.dump(result, result_file, ensure_ascii=False)


def _limit(cpu_seconds: int, max_memory_bytes: int, max_file_bytes: int) -> None:
    try:
        import resource  # noqa: PLC0415  not on Windows
    except ImportError:
        return
    for kind, limit in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, max_memory_bytes),
        (resource.RLIMIT_FSIZE, max_file_bytes),
        (resource.RLIMIT_NOFILE, 128),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def _run(source: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from aquila.chat.tool_runner import call_tool, unpack_images  # noqa: PLC0415  under the limits
    from aquila.chat.tools.declare import spec_of  # noqa: PLC0415

    module, _, attribute = source.partition(":")
    spec = spec_of(getattr(importlib.import_module(module), attribute), name=name)
    return call_tool(spec, unpack_images(spec, arguments)).to_json()


if __name__ == "__main__":
    main()
