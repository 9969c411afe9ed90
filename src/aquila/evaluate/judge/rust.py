"""Rust: the sample is a crate of its own, compiled where no tests lie, without `unsafe`; the tests are another crate.

The tests call the sample through functions that are declared in their own crate, in std's types: no macro, no type of
the sample's own and no operator that it defines takes part in a comparison. What `unsafe` would open is shut at compile
time: reading memory, and symbols in libc's place (`#[no_mangle]`). HumanEval-X's prompts use the crates rand, regex and
md5; small ones of ours go by these names (support/rust).
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from aquila.errors import SandboxError
from aquila.evaluate.judge.marked import BuildError, Plan, read_build, support_file
from aquila.evaluate.tasks import Task, reference_solution, sound_test
from aquila.files import cache_dir
from aquila.sandbox.box import Sandbox
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.job import MIB, Job, Limits, Step
from aquila.sandbox.programs import BUILD_LIMITS
from aquila.sandbox.toolchains import MissingToolchainError, Toolchain, binds_of

_CRATES = ("rand", "regex", "md5")
_LIBRARY = "rust-library"
_SAMPLE, _TESTS = "libjudged.rlib", "tests"
# Overflows panic, as under `cargo test`. The lints say whether an attribute or a block is `unsafe`.
_OPTIONS = ("--edition", "2021", "-A", "warnings", "-C", "debuginfo=0", "-C", "overflow-checks=on", "--color", "never")
_MAX_LIBRARY = 64 * MIB
_HEADER = re.compile(r"^[ \t]*(?:pub[ \t]+)?(fn[ \t]+(\w+)[^{;]*?\((.*?)\)[^{};]*)\{", re.MULTILINE | re.DOTALL)
_TYPE = re.compile(r"^[ \t]*(?:pub[ \t]+)?(?:struct|enum)[ \t]+(\w+)", re.MULTILINE)
_USE = re.compile(r"^use [^;]*;", re.MULTILINE)
_TEST = re.compile(r"#\[test\]\s*(?://[^\n]*\s*)*fn\s+(\w+)")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


class Rust:
    name = "rust"
    limits = Limits(memory_bytes=1024 * MIB, max_processes=64)
    disk_bytes = 128 * MIB
    out_of_memory = (b"memory allocation of", b"capacity overflow")

    def prepare(self, isolation: Isolation, tools: Toolchain) -> dict[str, Path]:
        if shutil.which("cc") is None:
            raise MissingToolchainError("no cc on this machine, which rustc links with (apt install gcc)")
        return {_LIBRARY: _library(isolation, tools)}

    def close(self) -> None:
        pass

    def plan(self, sandbox: Sandbox, tools: Toolchain, task: Task, program: str) -> Plan:
        names = functions_used(task)
        sample = [*compiler(sandbox, tools), "-F", "unsafe_code", "--crate-type", "rlib", "--crate-name", "judged"]
        compile = Step([*sample, "-o", _SAMPLE, "sample.rs"], BUILD_LIMITS["rust"])
        read = Step(["cat", _SAMPLE], Limits(output_bytes=_MAX_LIBRARY))
        sources = {"sample.rs": opened(program, [*names, *_types(task)])}
        outcomes = sandbox.run(Job([compile, read], sources, disk_bytes=self.disk_bytes))
        if len(outcomes) < 2 or not outcomes[-1].ok:
            raise BuildError(*read_build(outcomes[-1]))
        crate = [*compiler(sandbox, tools), "--extern", f"judged={_SAMPLE}", "--crate-name", _TESTS]
        build = Step([*crate, "-o", _TESTS, "tests.rs"], BUILD_LIMITS["rust"])
        files = {_SAMPLE: outcomes[-1].stdout, "tests.rs": tests_source(task)}
        return Plan([f"./{_TESTS}"], [build, Step(["rm", _SAMPLE, "tests.rs"], Limits())], files)


def opened(program: str, names: list[str]) -> str:
    """The program with what the tests use made public."""
    for name in names:
        program = re.sub(rf"^([ \t]*)((?:fn|struct|enum)[ \t]+{name}\b)", r"\1pub \2", program, flags=re.MULTILINE)
    return program


@cache
def functions_used(task: Task) -> list[str]:
    """What the tests call: the function of the prompt, and others that its published solution brings along."""
    body = _body(task)
    return [name for name in _headers(task) if re.search(rf"\b{name}\s*\(", body)]


@cache
def tests_source(task: Task) -> str:
    """A program that runs the tests and calls the sample through functions with std's types."""
    headers, body = _headers(task), _body(task)
    uses = [line for line in _USE.findall(task.declaration) if not re.match(r"use (?:regex|md5)\b", line)]
    types = "".join(f"use judged::{name};\n" for name in _types(task))
    calls = "".join(f"{headers[name][0]}{{ judged::{name}({headers[name][1]}) }}\n" for name in functions_used(task))
    names = _TEST.findall(body)
    body = re.sub(r"#\[test\]", "", body)
    for name in names:
        body = re.sub(rf"\bfn\s+{name}\b", f"pub fn {name}", body)
    run = " ".join(f"tests::{name}();" for name in names)
    main = support_file("rust/main.rs").replace("AQUILA_CALLS", run)
    return "\n".join([*uses, types + calls, f"mod tests {{{body}}}", main])


def compiler(sandbox: Sandbox, tools: Toolchain) -> list[str]:
    """With our crates known by name."""
    externs = [word for crate in _CRATES for word in ("--extern", crate)]
    return [tools.inside("rustc", sandbox), *_OPTIONS, "-L", sandbox.inside(_LIBRARY), *externs]


def _headers(task: Task) -> Mapping[str, tuple[str, str]]:
    """Of each function of prompt and published solution: how it is declared, and its parameters' names."""
    found: dict[str, tuple[str, str]] = {}
    text = _COMMENT.sub(" ", f"{task.declaration}\n{reference_solution(task)}")
    for match in _HEADER.finditer(text):
        names = [part.split(":")[0].replace("mut ", "").strip() for part in _split(match[3])]
        found.setdefault(match[2], (re.sub(r"\bmut\s+(?=\w+\s*:)", "", match[1]), ", ".join(names)))
    return found


def _types(task: Task) -> list[str]:
    """Of the prompt, or of its published solution, that the tests or the function's declaration name (Rust/137)."""
    named = _body(task) + "".join(header for header, _ in _headers(task).values())
    found = _TYPE.findall(f"{task.declaration}\n{reference_solution(task)}")
    return [name for name in found if re.search(rf"\b{name}\b", named)]


def _body(task: Task) -> str:
    """What stands in the braces of `mod tests`; one published task has it in a comment."""
    inside = sound_test(task).partition("mod tests")[2].partition("{")[2]
    return inside[: inside.rindex("}")]


def _split(parameters: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth = [""], 0
    for letter in parameters:
        depth += (letter in "<([") - (letter in ">)]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]


def _library(isolation: Isolation, tools: Toolchain) -> Path:
    """Our crates, compiled."""
    sources = {f"{crate}.rs": support_file(f"rust/{crate}.rs") for crate in _CRATES}
    text = "\0".join([tools.version(), *_OPTIONS, *sources.values()])
    folder = cache_dir() / "judge" / f"rust-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    with Sandbox(isolation, binds=binds_of([tools])) as sandbox:
        for crate in _CRATES:
            compile = [tools.inside("rustc", sandbox), *_OPTIONS, "-O", "--crate-type", "rlib", "--crate-name", crate]
            steps = [
                Step([*compile, "-o", "out", f"{crate}.rs"], BUILD_LIMITS["rust"]),
                Step(["cat", "out"], Limits(output_bytes=_MAX_LIBRARY)),
            ]
            outcome = sandbox.run(Job(steps, sources, disk_bytes=128 * MIB))[-1]
            if not outcome.ok or not outcome.stdout:
                said = outcome.stderr.decode(errors="replace").strip()[-500:]
                raise SandboxError(f"our crate {crate} could not be compiled ({outcome.status} {outcome.code}): {said}")
            (partial / f"lib{crate}.rlib").write_bytes(outcome.stdout)
    partial.chmod(0o755)
    for file in partial.iterdir():
        file.chmod(0o644)
    try:
        partial.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(partial)
    return folder
