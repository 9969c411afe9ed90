"""Compilers and interpreters of this machine, and where they lie for a job.

A toolchain below /usr is in every sandbox under its own path. One elsewhere (a home folder, a wheel) is bound.
"""

import platform
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from aquila.errors import ConfigError, SandboxError
from aquila.sandbox.box import Sandbox

LANGUAGES = ("python", "cpp", "java", "js", "go", "rust")
ALIASES = {"c++": "cpp", "cxx": "cpp", "py": "python", "javascript": "js", "node": "js", "golang": "go", "rs": "rust"}
_PROGRAMS = {"cpp": ("g++",), "java": ("javac", "java"), "js": ("node",), "go": ("go",), "rust": ("rustc",)}
_INSTALL = {
    "cpp": "apt install g++",
    "java": "apt install default-jdk-headless",
    "js": "apt install nodejs",
    "go": "apt install golang-go",
    "rust": "apt install rustc",
}
_ROOT_QUESTION = {"go": ("env", "GOROOT"), "rust": ("--print", "sysroot")}  # their programs in PATH may only be doors
_VERSION_OPTION = {"go": "version", "java": "-version"}


class MissingToolchainError(SandboxError):
    """The language's tools are not on this machine: a reason to skip it, never a result."""


@dataclass(frozen=True)
class Toolchain:
    """Tools of a language.

    Attributes:
        programs: real path of each tool on the host.
        root: the folder to bind, where the tools are not below /usr.
    """

    language: str
    programs: dict[str, Path] = field(default_factory=dict)
    root: Path | None = None

    def inside(self, program: str, sandbox: Sandbox) -> str:
        """The tool's path for a job in a sandbox that was started with `binds_of` this toolchain."""
        path = self.programs[program]
        if self.root is None:
            return str(path)
        return f"{sandbox.inside(self.language)}/{path.relative_to(self.root)}"

    def version(self) -> str:
        """The first line of what the tools say about themselves."""
        return _version(self.language, next(iter(self.programs.values()))) if self.programs else _python_version()


def language_of(name: str) -> str:
    """The name we use, of a language as people write it."""
    language = ALIASES.get(name.lower(), name.lower())
    if language not in LANGUAGES:
        raise ConfigError(f"language {name!r} is unknown; there are {', '.join(LANGUAGES)}")
    return language


@cache
def find_toolchain(language: str) -> Toolchain:
    """The tools of a language.

    Raises:
        MissingToolchainError: they are not there; its message is the reason, and how to install them.
    """
    if language == "python":
        return Toolchain("python")
    programs = {}
    for name in _PROGRAMS[language]:
        found = shutil.which(name)
        if found is None:
            raise MissingToolchainError(f"no {name} on this machine ({_INSTALL[language]})")
        programs[name] = Path(found)
    root = _root(language, programs)
    if root is not None:
        programs = {name: root / "bin" / name for name in programs}
        if missing := [name for name, path in programs.items() if not path.is_file()]:
            raise MissingToolchainError(f"no {missing[0]} below {root / 'bin'} ({_INSTALL[language]})")
    return Toolchain(language, programs, root)


def binds_of(toolchains: Iterable[Toolchain]) -> dict[str, Path]:
    """For `Sandbox(binds=...)`."""
    return {toolchain.language: toolchain.root for toolchain in toolchains if toolchain.root is not None}


def _root(language: str, programs: dict[str, Path]) -> Path | None:
    path = next(iter(programs.values()))
    if language in _ROOT_QUESTION:
        answer = _ask(path, *_ROOT_QUESTION[language])
        root = Path(answer).resolve() if answer else path.resolve().parents[1]
    else:
        root = path.resolve().parents[1]
    return None if root.is_relative_to("/usr") and path.is_relative_to("/usr") else root


@cache
def _version(language: str, program: Path) -> str:
    return _ask(program, _VERSION_OPTION.get(language, "--version")).partition("\n")[0] or "unknown"


def _python_version() -> str:
    return f"Python {platform.python_version()}"


def _ask(program: Path, *words: str) -> str:
    done = subprocess.run(
        [str(program), *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60
    )
    said = (done.stdout or done.stderr).strip()
    if done.returncode:
        raise MissingToolchainError(
            f"{program} does not run: {said.partition(chr(10))[0] or f'code {done.returncode}'}"
        )
    return said
