"""Runs the calls of a conversation: checks arguments, asks where a tool may do harm, limits time, memory and output.

    check arguments -> resolve pictures -> ask (network, write, exec) -> run -> cap the output -> keep pictures

Whatever goes wrong becomes a `ToolResult` with `error`, for the model to read; only `KeyboardInterrupt` is raised.
A tool that another process can import runs in one: it is killed with its children when its time is over. Tools that
hold a connection or a loaded model run here and keep their own time.
"""

import base64
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aquila.chat.tool_images import ImageStore
from aquila.chat.tool_result import ToolResult, result_from_json
from aquila.chat.toolspec import Permission, ToolSpec, compact_json
from aquila.config import format_size, suggest
from aquila.errors import AquilaError, ConfigError

log = logging.getLogger(__name__)

Confirm = Callable[[ToolSpec, Mapping[str, Any]], bool]
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
    "null": (type(None),),
}
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT")


@dataclass(frozen=True)
class Limits:
    """Of one run. Time is the tool's own."""

    max_text_characters: int = 20_000
    max_output_bytes: int = 64 << 20
    max_memory_bytes: int = 2 << 30
    max_file_bytes: int = 64 << 20


def refuse(tool: ToolSpec, arguments: Mapping[str, Any]) -> bool:
    """Confirms nothing: tools that may do harm do not run."""
    return False


class ToolRunner:
    """Runs the tools of a conversation.

    Args:
        tools: that may be called.
        confirm: asked before a tool with permissions runs, with its arguments.
        images: pictures that arguments may name; results are added to it.
        limits: of every run.
        fill_image: a call without a required picture takes the newest one of `images`.
    """

    def __init__(
        self,
        tools: Sequence[ToolSpec],
        *,
        confirm: Confirm = refuse,
        images: ImageStore | None = None,
        limits: Limits | None = None,
        fill_image: bool = False,
    ) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.images = images or ImageStore()
        self._confirm = confirm
        self._limits = limits or Limits()
        self._fill_image = fill_image

    def run(self, name: str, arguments: Mapping[str, Any], *, confirm: Confirm | None = None) -> ToolResult:
        """Runs a call. The result's pictures are kept under their ids.

        Args:
            name: of the tool.
            arguments: as the model gave them.
            confirm: instead of the runner's own.
        """
        tool = self.tools.get(name)
        if tool is None or tool.run is None:
            return ToolResult(f"no tool is called {name!r}{suggest(name, self.tools)}", error=True)
        try:
            arguments = self._fill(tool, arguments)
            check_arguments(tool, arguments)
            ready = self._resolve_images(tool, arguments)
            if tool.permissions and not (confirm or self._confirm)(tool, arguments):
                return ToolResult(
                    f"{name} was not run: {permissions_text(tool.permissions)} was not allowed", error=True
                )
            result = self._isolated(tool, ready) if tool.source else call_tool(tool, ready)
            return self._kept(result)
        except AquilaError as error:
            return ToolResult(str(error), error=True)

    def _fill(self, tool: ToolSpec, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        missing = [name for name in image_parameters(tool) if name not in arguments]
        if self._fill_image and missing and self.images.latest:
            return {**arguments, missing[0]: self.images.latest}
        return arguments

    def _resolve_images(self, tool: ToolSpec, arguments: Mapping[str, Any]) -> dict[str, Any]:
        pictures = image_parameters(tool)
        return {
            name: self.images.resolve(value).data if name in pictures and isinstance(value, str) else value
            for name, value in arguments.items()
        }

    def _kept(self, result: ToolResult) -> ToolResult:
        limit = self._limits.max_text_characters
        text = result.text
        if len(text) > limit:
            text = f"{text[:limit]}\n[cut: {len(text) - limit} more characters]"
        return replace(result, text=text, images=tuple(self.images.add(image) for image in result.images))

    def _isolated(self, tool: ToolSpec, arguments: Mapping[str, Any]) -> ToolResult:
        order = {
            "source": tool.source,
            "name": tool.name,
            "arguments": _pack_images(tool, arguments),
            "cpu_seconds": math.ceil(tool.timeout_seconds),
            "max_memory_bytes": self._limits.max_memory_bytes,
            "max_file_bytes": self._limits.max_file_bytes,
        }
        with tempfile.TemporaryDirectory(prefix="aquila-tool-") as folder:
            return _run_process(tool, order, folder, self._limits)


def _run_process(tool: ToolSpec, order: Mapping[str, Any], folder: str, limits: Limits) -> ToolResult:
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ} | {"HOME": folder}
    output_path = os.path.join(folder, "result.json")
    with open(output_path, "w+b") as output, open(os.path.join(folder, "log"), "w+b") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "aquila.chat.tool_process"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            cwd=folder,
            env=environment | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            process.communicate(json.dumps(order).encode(), timeout=tool.timeout_seconds)
        except subprocess.TimeoutExpired:
            return ToolResult(f"{tool.name} was stopped after {tool.timeout_seconds:g} seconds", error=True)
        finally:
            _kill_group(process)
        size = os.fstat(output.fileno()).st_size
        if size > limits.max_output_bytes:
            return ToolResult(f"{tool.name} gave {format_size(size)}, which is more than is read", error=True)
        output.seek(0)
        errors.seek(0)
        return _read_result(tool, process.returncode, output.read(), errors.read(4096))


def _read_result(tool: ToolSpec, exit_code: int, output: bytes, errors: bytes) -> ToolResult:
    try:
        return result_from_json(json.loads(output))
    except (ValueError, KeyError, TypeError, RecursionError):
        log.debug("%s left: %s", tool.name, errors.decode("utf-8", "replace"))
    how = f"was ended by signal {-exit_code}" if exit_code < 0 else f"left with exit code {exit_code}"
    last = errors.decode("utf-8", "replace").strip().splitlines()[-1:]
    return ToolResult(f"{tool.name} {how} without a result{': ' + last[0] if last else ''}", error=True)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends what the tool left running; its group has the process's number."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        log.debug("the tool's processes are gone already")
    process.wait()


def call_tool(tool: ToolSpec, arguments: Mapping[str, Any]) -> ToolResult:
    """Calls a tool's function here. An exception becomes an error that names it."""
    assert tool.run is not None, "a tool without a function is not run"
    try:
        value = tool.run(**arguments)
    except AquilaError as error:
        return ToolResult(str(error), error=True)
    except Exception as error:
        log.debug("%s failed", tool.name, exc_info=True)
        return ToolResult(f"{tool.name} failed: {type(error).__name__}: {error}", error=True)
    if isinstance(value, ToolResult):
        return value
    try:
        return ToolResult(value if isinstance(value, str) else compact_json(value))
    except (TypeError, ValueError):
        return ToolResult(f"{tool.name} returned a {type(value).__name__}, which is neither text nor JSON", error=True)


def check_arguments(tool: ToolSpec, arguments: Mapping[str, Any]) -> None:
    """`ConfigError` if one is missing, unknown, or not of its type. Tools check what is inside themselves."""
    for name in tool.required:
        if name not in arguments:
            raise ConfigError(f"{tool.name}: the argument {name!r} is missing")
    for name, value in arguments.items():
        schema = tool.properties.get(name)
        if schema is None:
            if tool.parameters.get("additionalProperties") is False:
                raise ConfigError(f"{tool.name}: there is no argument {name!r}{suggest(name, tool.properties)}")
            continue
        kinds = schema.get("type", ()) if isinstance(schema, Mapping) else ()
        kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        if kinds and not any(_is_a(value, kind) for kind in kinds):
            raise ConfigError(f"{tool.name}: {name} must be a {' or '.join(kinds)}, not {compact_json(value)[:80]}")
        if "enum" in schema and value not in schema["enum"]:
            raise ConfigError(f"{tool.name}: {name} must be one of {compact_json(schema['enum'])}")


def _is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, (object,)))


def image_parameters(tool: ToolSpec) -> tuple[str, ...]:
    """Parameters that are pictures."""
    return tuple(name for name, schema in tool.properties.items() if schema.get("format") == "image")


def _pack_images(tool: ToolSpec, arguments: Mapping[str, Any]) -> dict[str, Any]:
    pictures = image_parameters(tool)
    return {
        name: base64.b64encode(value).decode("ascii") if name in pictures and isinstance(value, bytes) else value
        for name, value in arguments.items()
    }


def unpack_images(tool: ToolSpec, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Pictures as they were before they crossed to another process."""
    pictures = image_parameters(tool)
    return {name: base64.b64decode(value) if name in pictures and value else value for name, value in arguments.items()}


def permissions_text(permissions: frozenset[Permission]) -> str:
    """What they allow, for a question or a refusal."""
    words = {"network": "using the network", "write": "changing files", "exec": "running programs"}
    return ", ".join(words[each] for each in ("network", "write", "exec") if each in permissions)
