"""The texts that the original harnesses execute: prompt, sample and tests as one program.

Sources: openai/human-eval execution.py; THUDM/CodeGeeX codegeex/benchmark/humaneval-x/evaluate_humaneval_x.py and, for
Rust, the later codegeex/benchmark/evaluate_humaneval_x.py. They know samples that go on from the prompt; of a whole
program all is taken for the sample.
"""

import re

from aquila.evaluate.judge import cpp, go
from aquila.evaluate.tasks import Task

_PYTHON_IMPORTS = """
import math
import re
import sys
import copy
import datetime
import itertools
import collections
import heapq
import statistics
import functools
import hashlib
import string
from typing import *
from collections import *
"""  # but for numpy, which no task uses


def official_program(task: Task, program: str) -> str:
    """The text that the original harness executes."""
    whole = not program.startswith(task.prompt)
    prompt, code = ("", program) if whole else (task.prompt, program[len(task.prompt) :])
    match task.language:
        case "python" if not task.declaration:  # HumanEval
            return f"{program}\n{task.test}\ncheck({task.entry_point})"
        case "python":
            return f"{_PYTHON_IMPORTS}{prompt}{code if whole else _first_block(code)}\n{task.test}"
        case "cpp":
            includes = [f"#include<{name}>" for name in cpp.HEADERS]
            missing = [line for line in includes if line not in prompt]
            return "\n".join([*missing, f"\n{prompt}{code}", task.test])
        case "go":
            return _go(task, prompt, code)
        case "rust":
            documentation = prompt.removesuffix(task.declaration)
            declaration = "" if whole else task.declaration
            return f"\nfn main(){{ \n }} \n{declaration}{documentation}{code}{task.test}"
        case _:
            return f"{prompt}{code}\n{task.test}"


def _first_block(code: str) -> str:
    """Up to the first line that is not indented."""
    lines = code.split("\n")
    end = next((n for n, line in enumerate(lines) if line and not re.match(r"[ \t]", line)), len(lines))
    return "\n".join(lines[:end])


def _go(task: Task, prompt: str, code: str) -> str:
    """The prompt's imports go; the sample gets those packages whose name it mentions anywhere, tests none of theirs.

    A package counts as there when its name stands anywhere in the test file's head, `math` in `math/rand` too.
    """
    missing = [
        path for path in go.ORIGINAL_PACKAGES if path not in task.setup and f"{path.rpartition('/')[2]}." in code
    ]
    imports = "import (\n" + "    ".join(f'"{path}"\n' for path in missing) + ")\n" if missing else ""
    return f"{task.setup}\n{imports}{prompt.replace(task.imports, '')}{code}\n{task.test}"
