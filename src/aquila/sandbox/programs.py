"""A source file of any language as a job: built where it has to be, and run."""

import re
from dataclasses import replace

from aquila.sandbox.box import Sandbox
from aquila.sandbox.job import MIB, Job, Limits, Step
from aquila.sandbox.toolchains import Toolchain

# What compilers need, measured on small programs: a Java or Go compiler starts dozens of threads and reserves much.
BUILD_LIMITS = {
    "cpp": Limits(wall_seconds=60, memory_bytes=2048 * MIB),
    "java": Limits(wall_seconds=90, memory_bytes=2048 * MIB, max_processes=128),
    "go": Limits(wall_seconds=120, memory_bytes=4096 * MIB, max_processes=256, max_files=1024),
    "rust": Limits(wall_seconds=120, memory_bytes=4096 * MIB, max_processes=128),
}
JAVAC = ("-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC", "-J-Xmx512m", "-encoding", "UTF-8", "-proc:none")
JAVA = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xss16m", "-Dfile.encoding=UTF-8")
JAVA_EXTRA_BYTES = 256 * MIB  # of a JVM beside its heap
GO_ENVIRONMENT = {
    "GOCACHE": "{tmp}/gocache",
    "GOPATH": "{tmp}/gopath",
    "GOFLAGS": "-mod=mod -trimpath",
    "GOPROXY": "off",
    "GOSUMDB": "off",
    "GOTOOLCHAIN": "local",
    "CGO_ENABLED": "0",
}
_BUILD_DISK = {"go": 1024 * MIB, "rust": 256 * MIB}


def program_job(sandbox: Sandbox, tools: Toolchain, source: str, limits: Limits, stdin: bytes = b"") -> Job:
    """The job that runs `source` as a whole program within `limits`; building has limits of its own."""
    name, steps = _STEPS[tools.language](sandbox, tools, source)
    *builds, run = steps
    run = Step(run, _for_runtime(tools.language, limits), stdin=stdin)
    environment = GO_ENVIRONMENT if tools.language == "go" else {}
    build = [Step(argv, BUILD_LIMITS[tools.language], environment) for argv in builds]
    return Job([*build, run], {name: source}, disk_bytes=_BUILD_DISK.get(tools.language, 64 * MIB))


def _for_runtime(language: str, limits: Limits) -> Limits:
    """A JVM, Node and Go take memory and threads beside what the program asks for."""
    if language == "java":
        return replace(limits, memory_bytes=limits.memory_bytes + JAVA_EXTRA_BYTES, max_processes=128)
    return limits


def _python(sandbox: Sandbox, tools: Toolchain, source: str) -> tuple[str, list[list[str]]]:
    return "main.py", [[sandbox.python, "-I", "-S", "main.py"]]


def _cpp(sandbox: Sandbox, tools: Toolchain, source: str) -> tuple[str, list[list[str]]]:
    build = [tools.inside("g++", sandbox), "-std=c++17", "-O1", "main.cpp", "-o", "main"]
    return "main.cpp", [build, ["./main"]]


def _java(sandbox: Sandbox, tools: Toolchain, source: str) -> tuple[str, list[list[str]]]:
    found = re.search(r"\bpublic\s+(?:final\s+)?class\s+(\w+)", source) or re.search(r"\bclass\s+(\w+)", source)
    name = found[1] if found else "Main"
    build = [tools.inside("javac", sandbox), *JAVAC, f"{name}.java"]
    return f"{name}.java", [build, [tools.inside("java", sandbox), *JAVA, "-Xmx256m", "-cp", ".", name]]


def _js(sandbox: Sandbox, tools: Toolchain, source: str) -> tuple[str, list[list[str]]]:
    return "main.js", [[tools.inside("node", sandbox), "main.js"]]


def _go(sandbox: Sandbox, tools: Toolchain, source: str) -> tuple[str, list[list[str]]]:
    return "main.go", [[tools.inside("go", sandbox), "build", "-o", "main", "main.go"], ["./main"]]


def _rust(sandbox: Sandbox, tools: Toolchain, source: str) -> tuple[str, list[list[str]]]:
    return "main.rs", [[tools.inside("rustc", sandbox), "-O", "-o", "main", "main.rs"], ["./main"]]


_STEPS = {"python": _python, "cpp": _cpp, "java": _java, "js": _js, "go": _go, "rust": _rust}
