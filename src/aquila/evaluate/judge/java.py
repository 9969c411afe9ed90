"""Java: sample and tests under class loaders of their own in one JVM, see support/java/AquilaRunner.java.

A compiler that stays up, in a sandbox of its own, compiles both. It runs nothing of what it compiles: annotation
processing is off.
"""

import base64
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from aquila.errors import SandboxError
from aquila.evaluate.judge.marked import BuildError, Plan, support_file
from aquila.evaluate.tasks import Task
from aquila.evaluate.verdict import one_line
from aquila.sandbox.box import Sandbox
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.job import MIB, Job, Limits, Step
from aquila.sandbox.programs import JAVA
from aquila.sandbox.running import CallTimeoutError, OutputLimitError, Running
from aquila.sandbox.toolchains import Toolchain, binds_of

_COMPILER_LIMITS = Limits(wall_seconds=7 * 86400.0, memory_bytes=2048 * MIB, max_processes=128)
_START_SECONDS = 120.0
_COMPILE_SECONDS = 30.0
_MAX_CLASSES = 64 * MIB
_RUN = (*JAVA, "-Xmx512m", "-cp", "r", "AquilaRunner")
_METHOD = re.compile(
    r"^    public (?P<result>.+?) (?P<name>\w+)\((?P<parameters>.*)\)(?P<throws>[^{]*)\{", re.MULTILINE
)
_IMPORTS = re.compile(r"^import .*?;", re.MULTILINE)


class Java:
    name = "java"
    limits = Limits(memory_bytes=2048 * MIB, max_processes=128)
    disk_bytes = 32 * MIB
    out_of_memory = (b"java.lang.OutOfMemoryError", b"insufficient memory for the Java Runtime")

    def __init__(self) -> None:
        self._compiler: _Compiler | None = None
        self._tests: dict[str, dict[str, bytes]] = {}
        self._runner: dict[str, bytes] = {}

    def prepare(self, isolation: Isolation, tools: Toolchain) -> dict[str, Path]:
        self._compiler = _Compiler(isolation, tools)
        self._runner = self._ours({"AquilaRunner.java": support_file("java/AquilaRunner.java")})
        return {}

    def close(self) -> None:
        if self._compiler is not None:
            self._compiler.close()

    def plan(self, sandbox: Sandbox, tools: Toolchain, task: Task, program: str) -> Plan:
        assert self._compiler is not None, "prepared first"
        if task.task_id not in self._tests:
            self._tests[task.task_id] = self._ours(_tests_sources(task))
        classes = self._compiler.compile({"Solution.java": program})
        if "Solution" not in classes:
            raise BuildError("compile_error", "it has no class Solution")
        folders = {"s": classes, "t": self._tests[task.task_id], "r": self._runner}
        files = {f"{folder}/{name}.class": data for folder, found in folders.items() for name, data in found.items()}
        return Plan([tools.inside("java", sandbox), *_RUN], files=files)

    def _ours(self, sources: Mapping[str, str]) -> dict[str, bytes]:
        assert self._compiler is not None, "prepared first"
        try:
            return self._compiler.compile(sources)
        except BuildError as error:
            raise SandboxError(f"{', '.join(sources)} could not be compiled: {error.detail}") from None


class _Compiler:
    """A JVM that compiles. One that does not answer is replaced."""

    def __init__(self, isolation: Isolation, tools: Toolchain) -> None:
        self._sandbox = Sandbox(isolation, binds=binds_of([tools]))
        self._tools = tools
        self._running: Running | None = None

    def close(self) -> None:
        self._stop()
        self._sandbox.close()

    def compile(self, sources: Mapping[str, str]) -> dict[str, bytes]:
        """Class files by the class's name.

        Raises:
            BuildError: it is not Java, or takes too long to tell.
        """
        fresh = self._running is None
        running = self._running or self._start()
        words = [word for name, text in sources.items() for word in (name, _encode(text))]
        try:
            seconds = _START_SECONDS if fresh else _COMPILE_SECONDS
            reply = running.ask(" ".join(words).encode() + b"\n", seconds, _MAX_CLASSES)
        except CallTimeoutError:
            self._stop()
            raise BuildError("timeout", f"compiling took more than {_COMPILE_SECONDS:g} s") from None
        except (EOFError, OutputLimitError):
            self._stop()
            raise BuildError("compile_error", "the compiler ended over it") from None
        kind, *words = reply.decode().split(" ")
        if kind == "ok":
            return {name: _decode(data) for name, data in zip(words[::2], words[1::2], strict=True)}
        raise BuildError("compile_error", _first_error(_decode(words[0]).decode(errors="replace")))

    def _start(self) -> Running:
        source = {"AquilaCompiler.java": support_file("java/AquilaCompiler.java")}
        options = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss16m", "-Xmx512m", "-XX:-UsePerfData")
        command = [self._tools.inside("java", self._sandbox), *options, "AquilaCompiler.java"]
        step = Step(command, _COMPILER_LIMITS, interactive=True)
        self._running = self._sandbox.start(Job([step], source))
        return self._running

    def _stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            self._running.finish()
            self._running = None


def _encode(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode() or "="


def _decode(word: str) -> bytes:
    return b"" if word == "=" else base64.b64decode(word)


def _first_error(said: str) -> str:
    lines = [line for line in said.splitlines() if ": error: " in line] or said.splitlines() or ["it does not compile"]
    return one_line(lines[0].removeprefix("/"))


@cache
def _tests_sources(task: Task) -> dict[str, str]:
    """The tests, and a Solution with the prompt's methods that asks the sample's."""
    imports = "\n".join(_IMPORTS.findall(task.prompt))
    methods = "\n".join(_method(found) for found in _METHOD.finditer(task.declaration))
    solution = (
        f"{imports}\nclass Solution {{\n    private final Object target = AquilaRunner.create();\n{methods}\n}}\n"
    )
    runner = "class AquilaRunner {\n    static native Object create();\n" + (
        "    static native Object call(Object target, String name, Class<?>[] types, Object... values);\n}\n"
    )
    return {"Solution.java": solution, "Main.java": f"{imports}\n{task.test}", "AquilaRunner.java": runner}


def _method(found: re.Match[str]) -> str:
    parameters = [part.strip().rsplit(" ", 1) for part in _split(found["parameters"])]
    types = ", ".join(f"{_raw(kind)}.class" for kind, _ in parameters)
    values = "".join(f", {name}" for _, name in parameters)
    call = f'AquilaRunner.call(target, "{found["name"]}", new Class<?>[] {{{types}}}{values})'
    head = f"    public {found['result']} {found['name']}({found['parameters']}){found['throws']}"
    return f'    @SuppressWarnings("unchecked")\n{head}{{\n        return ({found["result"]}) {call};\n    }}'


def _split(parameters: str) -> list[str]:
    """At commas outside of angle brackets."""
    parts, depth = [""], 0
    for letter in parameters:
        depth += (letter == "<") - (letter == ">")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]


def _raw(kind: str) -> str:
    return re.sub(r"<.*>", "", kind)
