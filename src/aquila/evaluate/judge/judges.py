"""The judge of a language: what turns a program into a verdict, in a sandbox of its own."""

from typing import Protocol, runtime_checkable

from aquila.errors import ConfigError
from aquila.evaluate.judge.cpp import Cpp
from aquila.evaluate.judge.go import Go
from aquila.evaluate.judge.java import Java
from aquila.evaluate.judge.js import JavaScript
from aquila.evaluate.judge.marked import MarkedJudge
from aquila.evaluate.judge.official import OfficialJudge, OfficialPythonJudge
from aquila.evaluate.judge.python import PythonJudge
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.judge.rust import Rust
from aquila.evaluate.tasks import Task
from aquila.evaluate.verdict import Verdict
from aquila.sandbox.isolation import Isolation


@runtime_checkable
class Judge(Protocol):
    """Judges one program at a time. `close` ends its sandbox."""

    def judge(self, task: Task, program: str) -> Verdict:
        """The verdict on a whole program.

        Raises:
            SandboxError: nothing can be said about it.
        """
        ...

    def close(self) -> None: ...


def open_judge(language: str, isolation: Isolation, rules: Rules) -> Judge:
    """The judge of a language.

    Raises:
        MissingToolchainError: the language's tools are not here.
        SandboxError: its sandbox does not start.
    """
    if rules.rule == "official":
        python = language == "python"
        return OfficialPythonJudge(isolation, rules) if python else OfficialJudge(language, isolation, rules)
    if language == "python":
        return PythonJudge(isolation, rules)
    if language not in _LANGUAGES:
        raise ConfigError(
            f"there is no judge of {language}; there are judges of python, {', '.join(sorted(_LANGUAGES))}"
        )
    return MarkedJudge(_LANGUAGES[language](), isolation, rules)


_LANGUAGES = {"cpp": Cpp, "go": Go, "java": Java, "js": JavaScript, "rust": Rust}
