"""How the original harness of HumanEval-X builds and runs its programs, and by what it calls them passed.

Source: THUDM/CodeGeeX codegeex/benchmark/execution.py. Compilers get its options, and beside them only what keeps them
small and quiet. Packages that it wants installed (Boost, OpenSSL, js-md5, testify, three crates) are those of ours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aquila.evaluate.judge import cpp, go, rust
from aquila.evaluate.judge.java import Java
from aquila.evaluate.judge.js import JavaScript
from aquila.evaluate.judge.marked import Language, support_file
from aquila.evaluate.tasks import Task
from aquila.sandbox.box import Sandbox
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.job import Job, Step
from aquila.sandbox.programs import BUILD_LIMITS, GO_ENVIRONMENT, JAVAC
from aquila.sandbox.toolchains import Toolchain

_JAVAC_SECONDS = 5.0  # of the original, whatever its timeout
_GO_CACHE = "go-cache"


@dataclass(frozen=True)
class Way:
    """A language's own.

    Attributes:
        language: its limits are those of trusted judging.
        job: builds and runs a program within so many seconds each.
        prepare: as `Language.prepare`.
        wrong: stands in the output where an assertion of the tests did not hold.
        not_built: stands in the output where one step builds and runs, and building failed.
        silent: passed is what writes nothing, however it ended; else what ends with code 0, whatever it wrote.
    """

    language: Language
    job: Callable[[Sandbox, Toolchain, Task, str, float], Job]
    prepare: Callable[[Isolation, Toolchain], dict[str, Path]]
    wrong: bytes
    not_built: bytes | None = None
    silent: bool = False


def _nothing(isolation: Isolation, tools: Toolchain) -> dict[str, Path]:
    return {}


def _cpp(sandbox: Sandbox, tools: Toolchain, task: Task, text: str, seconds: float) -> Job:
    compile = [tools.inside("g++", sandbox), cpp.standard(task), "-w", "-I.", "test.cpp"]
    build = Step(compile, BUILD_LIMITS["cpp"].within(seconds))
    return _job(cpp.Cpp(), [build], ["./a.out"], {"test.cpp": text, **cpp.shims(task)}, seconds)


def _java(sandbox: Sandbox, tools: Toolchain, task: Task, text: str, seconds: float) -> Job:
    compile = [tools.inside("javac", sandbox), *JAVAC, "Main.java"]
    build = Step(compile, BUILD_LIMITS["java"].within(max(seconds, _JAVAC_SECONDS)))
    run = [tools.inside("java", sandbox), "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xmx512m", "-cp", ".", "Main"]
    return _job(Java(), [build], run, {"Main.java": text}, seconds)


def _js(sandbox: Sandbox, tools: Toolchain, task: Task, text: str, seconds: float) -> Job:
    files = {"test.js": text, "node_modules/js-md5.js": support_file("js/js-md5.js")}
    return _job(JavaScript(), [], [tools.inside("node", sandbox), "test.js"], files, seconds)


def _go(sandbox: Sandbox, tools: Toolchain, task: Task, text: str, seconds: float) -> Job:
    """`go test` itself, so that what `go vet` has to say counts too. It reads a cache, and need not write to it."""
    command = [tools.inside("go", sandbox), "test", f"-timeout={seconds}s", "main_test.go"]
    environment = GO_ENVIRONMENT | {"GOCACHE": sandbox.inside(_GO_CACHE)}
    step = Step(command, BUILD_LIMITS["go"].within(seconds), environment)
    return Job([step], _go_module(text), disk_bytes=2 * go.Go.disk_bytes)


def _prepare_go(isolation: Isolation, tools: Toolchain) -> dict[str, Path]:
    imports = "".join(f'\t_ "{path}"\n' for path in go.ORIGINAL_PACKAGES)
    head = f'package main\n\nimport (\n\t"testing"\n\t_ "{go.ASSERT}"\n{imports})\n'
    test = f"{head}\nfunc TestNothing(t *testing.T) {{}}\n"
    script = f"""
set -e
export GOFLAGS='{GO_ENVIRONMENT["GOFLAGS"]}'
go test main_test.go >&2
tar -cf - -C "$GOCACHE" .
"""
    return {_GO_CACHE: go.kept_folder(_GO_CACHE, script, _go_module(test), isolation, tools)}


def _go_module(test: str) -> dict[str, str]:
    testify = go.ASSERT.rpartition("/")[0]
    module = f"module judged\n\ngo 1.18\n\nrequire {testify} v0.0.0\n\nreplace {testify} => ./testify\n"
    package = {"testify/go.mod": f"module {testify}\n", "testify/assert/assert.go": support_file("go/assert.go")}
    return {"go.mod": module, "main_test.go": test, **package}


def _rust(sandbox: Sandbox, tools: Toolchain, task: Task, text: str, seconds: float) -> Job:
    """`cargo test` is `rustc --test`, and running what that makes. Only both together have a limit."""
    compile = [*rust.compiler(sandbox, tools), "--test", "-o", "tests", "tests.rs"]
    build = Step(compile, BUILD_LIMITS["rust"].within(seconds + 1))
    return _job(rust.Rust(), [build], ["./tests"], {"tests.rs": text}, seconds + 1)


def _job(language: Language, builds: list[Step], run: list[str], files: Mapping[str, str], seconds: float) -> Job:
    step = Step(run, language.limits.within(seconds))
    return Job([*builds, step], files, disk_bytes=language.disk_bytes)


WAYS = {
    "cpp": Way(cpp.Cpp(), _cpp, _nothing, wrong=b"Assertion `"),
    "java": Way(Java(), _java, _nothing, wrong=b"AssertionError"),
    "js": Way(JavaScript(), _js, _nothing, wrong=b"Assertion failed", not_built=b"SyntaxError: ", silent=True),
    "go": Way(go.Go(), _go, _prepare_go, wrong=b"expected ", not_built=b" failed]"),
    "rust": Way(rust.Rust(), _rust, rust.Rust().prepare, wrong=b"assertion "),
}
