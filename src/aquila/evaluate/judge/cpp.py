"""C++: the sample becomes a shared library, the tests an executable that was built without it.

Apart they cannot meet in the preprocessor or the compiler: no macro, overload or specialisation of the sample reaches
the tests. The library comes last in the order in which symbols are looked up, so it cannot take the place of libc's or
the tests' own functions either. An executable serves all samples of its task, and is kept in the cache folder.
"""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from aquila.errors import SandboxError
from aquila.evaluate.judge.marked import Plan, support_file
from aquila.evaluate.tasks import Task, sound_test
from aquila.files import atomic_write, cache_dir
from aquila.sandbox.box import Sandbox
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.job import MIB, Job, Limits, Step
from aquila.sandbox.programs import BUILD_LIMITS
from aquila.sandbox.toolchains import Toolchain, binds_of

# Those that HumanEval-X puts before every program.
HEADERS = ("stdlib.h", "algorithm", "math.h", "stdio.h", "vector", "string", "climits", "cstring", "iostream")
_PRELUDE = "".join(f"#include <{name}>\n" for name in HEADERS)
_USUAL_STANDARD = "-std=c++11"  # of HumanEval-X
_SHARED_OPTIONS = ("-w", "-fPIC")
_HEADER_FOLDER, _HEADER = "cpp-headers", "usual.h"
_LIBRARY = "libsample.so"
_TRAILING_COMMENTS = re.compile(r"(?:\s|/\*(?:(?!\*/).)*\*/|//[^\n]*$)*\Z", re.DOTALL | re.MULTILINE)
# -Wl keeps g++ from putting them behind the sample's library, as it does with -lm and -lc.
_SYSTEM_FIRST = "-Wl,--no-as-needed,-lstdc++,-lm,-lgcc_s,-lc"
_LINK_ORDER = (_SYSTEM_FIRST, f"./{_LIBRARY}", "-Wl,-z,now", "-Wl,-z,relro", "-Wl,-rpath,$ORIGIN")
_MAX_ARTIFACT = 256 * MIB


class Cpp:
    name = "cpp"
    limits = Limits(memory_bytes=1024 * MIB)
    disk_bytes = 64 * MIB
    out_of_memory = (b"std::bad_alloc",)

    def __init__(self) -> None:
        self._tests: dict[str, bytes] = {}

    def prepare(self, isolation: Isolation, tools: Toolchain) -> dict[str, Path]:
        return {_HEADER_FOLDER: _compile_headers(isolation, tools)}

    def close(self) -> None:
        pass

    def plan(self, sandbox: Sandbox, tools: Toolchain, task: Task, program: str) -> Plan:
        executable = self._tests.get(task.task_id)
        if executable is None:
            executable = self._tests[task.task_id] = _build_tests(sandbox, tools, task)
        build = Step(_compile_library(sandbox, tools, task), BUILD_LIMITS["cpp"])
        return Plan(["./tests"], [build], {"sample.cpp": program, "tests": executable, **shims(task)})


def standard(task: Task) -> str:
    return "-std=c++17" if "boost/any.hpp" in task.prompt else _USUAL_STANDARD


def shims(task: Task) -> dict[str, str]:
    """Headers of libraries that few prompts include and few machines have."""
    return {name: support_file(f"cpp/{name}") for name in ("boost/any.hpp", "openssl/md5.h") if name in task.prompt}


def _compiler(sandbox: Sandbox, tools: Toolchain, standard: str) -> list[str]:
    """Options that a precompiled header has to share with what uses it come first."""
    header = f"{sandbox.inside(_HEADER_FOLDER)}/{_HEADER}"
    return [tools.inside("g++", sandbox), standard, *_SHARED_OPTIONS, "-include", header, "-I."]


def _compile_library(sandbox: Sandbox, tools: Toolchain, task: Task, source: str = "sample.cpp") -> list[str]:
    """`-Bsymbolic`: names that the sample uses and defines are its own, even where libc has one of that name."""
    link = ["-Wl,-Bsymbolic", "-Wl,--no-undefined", f"-Wl,-soname,{_LIBRARY}"]
    return [*_compiler(sandbox, tools, standard(task)), "-shared", source, "-o", _LIBRARY, *link]


def _compile_headers(isolation: Isolation, tools: Toolchain) -> Path:
    """The headers that come before every sample, parsed once: that is more than half of a compilation."""
    digest = hashlib.sha256("\0".join([tools.version(), _PRELUDE, *_SHARED_OPTIONS]).encode()).hexdigest()[:32]
    folder = cache_dir() / "judge" / f"cpp-headers-{digest}"
    if (folder / f"{_HEADER}.gch").is_file():
        return folder
    with Sandbox(isolation, binds=binds_of([tools])) as sandbox:
        compile = [tools.inside("g++", sandbox), _USUAL_STANDARD, *_SHARED_OPTIONS, "-x", "c++-header", _HEADER]
        limits = replace(BUILD_LIMITS["cpp"], output_bytes=_MAX_ARTIFACT, file_bytes=_MAX_ARTIFACT)
        steps = [Step([*compile, "-o", f"{_HEADER}.gch"], limits), Step(["cat", f"{_HEADER}.gch"], limits)]
        outcome = sandbox.run(Job(steps, {_HEADER: _PRELUDE}, disk_bytes=_MAX_ARTIFACT))[-1]
    if not outcome.ok or not outcome.stdout:
        said = outcome.stderr.decode(errors="replace").strip()[:500]
        raise SandboxError(f"the usual headers of C++ could not be compiled ({outcome.status} {outcome.code}): {said}")
    for name, content in ((_HEADER, _PRELUDE.encode()), (f"{_HEADER}.gch", outcome.stdout)):
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(content)
    return folder


def _build_tests(sandbox: Sandbox, tools: Toolchain, task: Task) -> bytes:
    """The executable of a task's tests, linked against a library in which the function is there but does nothing."""
    stub, tests = task.prompt + "\n__builtin_trap(); }\n", _tests_source(task)
    support = {name: support_file(f"cpp/{name}") for name in ("assert.h", "main.cpp")}
    files = {"stub.cpp": stub, "tests.cpp": tests, **support, **shims(task)}
    kept = _artifact(tools, task, files)
    if kept.is_file():
        return kept.read_bytes()
    compiler = _compiler(sandbox, tools, standard(task))
    link = [*compiler, "tests.cpp", "main.cpp", "-o", "tests", *_LINK_ORDER]
    limits = BUILD_LIMITS["cpp"]
    steps = [Step(_compile_library(sandbox, tools, task, "stub.cpp"), limits), Step(link, limits)]
    read = Step(["cat", "tests"], Limits(output_bytes=_MAX_ARTIFACT))
    outcomes = sandbox.run(Job([*steps, read], files, disk_bytes=128 * MIB))
    if len(outcomes) < 3 or not outcomes[-1].ok:
        said = outcomes[-1].stderr.decode(errors="replace")
        raise SandboxError(f"the tests of {task.task_id} could not be built: {said.strip()[:500]}")
    with atomic_write(kept) as temporary:
        temporary.write_bytes(outcomes[-1].stdout)
    return outcomes[-1].stdout


def _tests_source(task: Task) -> str:
    """The prompt with the function declared and not begun, then the tests as a function of another name."""
    prompt = _TRAILING_COMMENTS.sub("", task.prompt)
    assert prompt.endswith("{"), "every prompt of the pinned file does"
    test = re.sub(r"\bint\s+main\s*\(\s*\)", "int aquila_tests()", sound_test(task))
    # a function that ends without `return` is fine when it is main
    return f"{prompt[:-1].rstrip()};\n#line 1\n{test.rstrip()[:-1]}\nreturn 0;\n}}\n"


def _artifact(tools: Toolchain, task: Task, files: dict[str, str]) -> Path:
    parts = "\0".join(
        [tools.version(), standard(task), *_LINK_ORDER, *(f"{name}\0{text}" for name, text in sorted(files.items()))]
    )
    digest = hashlib.sha256(parts.encode()).hexdigest()[:32]
    return cache_dir() / "judge" / f"cpp-{task.task_id.replace('/', '-')}-{digest}"
