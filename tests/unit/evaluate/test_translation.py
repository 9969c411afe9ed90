"""Translation between the languages of HumanEval-X: CodeGeeX's prompt."""

from dataclasses import replace
from pathlib import Path

import pytest

from aquila.errors import ConfigError, EvaluationError
from aquila.evaluate.coding import CodeRun
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.sampling import Settings
from aquila.evaluate.tasks import Benchmark, Task
from aquila.evaluate.translation import sources_by_number, translation_text
from aquila.sandbox.isolation import Isolation

PYTHON = Task(
    "Python/7",
    "python",
    "def add(x: int, y: int):\n    '''Adds.'''\n",
    "    return x + y\n",
    "",
    "add",
    "\n\ndef add(x: int, y: int):\n",
)
CPP = Task(
    "CPP/7", "cpp", "/*Adds.*/\nint add(int x,int y){\n", "    return x+y;\n}\n", "", "add", "int add(int x,int y){\n"
)
TEXT = "code translation\nPython:\ndef add(x: int, y: int):\n    return x + y\nC++:\nint add(int x,int y){"


def benchmark(task: Task, name: str = "humaneval-x") -> Benchmark:
    return Benchmark(name, task.language, {task.task_id: task}, Path("file"), "0" * 64)


def test_the_prompt_has_a_solution_and_a_declaration_and_no_documentation():
    assert translation_text(sources_by_number(benchmark(PYTHON)), CPP) == TEXT
    back = translation_text(sources_by_number(benchmark(CPP)), PYTHON)
    assert (
        back == "code translation\nC++:\nint add(int x,int y){\n    return x+y;\n}\nPython:\ndef add(x: int, y: int):"
    )


def test_a_run_asks_so_and_says_so():
    walls = Isolation("landlock")
    run = CodeRun(benchmark(CPP), 1, "bare", Settings(), walls, Rules(), source=benchmark(PYTHON))
    (prompt,) = run.prompts_of(CPP, [0])
    assert prompt.text == TEXT
    assert prompt.is_complete is not None
    assert prompt.is_complete("\n    return x+y;\n}\n")
    plain = replace(run, source=None)
    assert plain.prompts_of(CPP, [0])[0].text == CPP.prompt.rstrip("\n")


def test_tasks_that_cannot_be_translated_are_named():
    with pytest.raises(ConfigError, match="not from humaneval"):
        sources_by_number(benchmark(PYTHON, "humaneval"))
    with pytest.raises(EvaluationError, match="CPP/8: the language to translate from has no task of that number"):
        translation_text(sources_by_number(benchmark(PYTHON)), replace(CPP, task_id="CPP/8"))
