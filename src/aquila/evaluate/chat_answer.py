"""The program in a chat model's answer: out of its fence, without the talk and the demonstration around it."""

import ast
import re
import textwrap
from collections.abc import Iterator

from aquila.evaluate.tasks import Task
from aquila.evaluate.truncation import Cut, functions, truncate

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})[ \t]*(?P<tag>[\w+#.-]*)[^\n]*$", re.MULTILINE)
_TAGS = {
    "python": {"python", "py", "python3"},
    "cpp": {"cpp", "c++", "cc", "cxx"},
    "java": {"java"},
    "js": {"js", "javascript", "node"},
    "go": {"go", "golang"},
    "rust": {"rust", "rs"},
}
_TALK_ENDS = re.compile(r"^(?:import|from|def|class|@|#\s*include|using|package|func|fn|function|const|public)\b", re.M)
_KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


def extract(answer: str, task: Task) -> Cut:
    """What of an answer is judged."""
    code = _code_of(answer, task)
    return _python(code, task) if task.language == "python" else _braces(code, task)


def _code_of(answer: str, task: Task) -> str:
    """The block in the language's fence that has the function, else the longest one, else any, else what looks so."""
    blocks = list(_blocks(answer))
    tagged = [code for tag, code in blocks if tag.lower() in _TAGS[task.language]] or [code for _, code in blocks]
    if tagged:
        name = re.compile(rf"\b{re.escape(task.entry_point)}\b")
        return max(tagged, key=lambda code: (name.search(code) is not None, len(code)))
    found = _TALK_ENDS.search(answer)
    return answer[found.start() :] if found else answer


def _blocks(answer: str) -> Iterator[tuple[str, str]]:
    """Tag and content of each fence. One without an end goes on to the end of the answer."""
    place = 0
    while opening := _FENCE.search(answer, place):
        start = opening.end() + 1
        closing = re.compile(rf"^{opening['indent']}{opening['mark']}+[ \t\r]*$", re.MULTILINE).search(answer, start)
        end, place = (closing.start(), closing.end()) if closing else (len(answer), len(answer))
        code = answer[start:end]
        yield opening["tag"], textwrap.dedent(code) if opening["indent"] else code


def _python(code: str, task: Task) -> Cut:
    if not re.search(rf"^(?:async\s+)?def\s+{re.escape(task.entry_point)}\b", code, re.MULTILINE):
        first = re.search(r"^.*\S", code, re.MULTILINE)
        if first and not first[0][:1].isspace():  # the body alone, at the margin
            code = textwrap.indent(code, "    ")
        return truncate(code, task)
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return truncate(code, task)
    lines = code.splitlines(keepends=True)
    kept = [_lines_of(node, lines) for node in tree.body if isinstance(node, _KEPT)]
    return Cut("\n" + "\n".join(part.rstrip() + "\n" for part in kept))


def _lines_of(node: ast.stmt, lines: list[str]) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(each.lineno for each in decorators)])
    return "".join(lines[first - 1 : node.end_lineno])


def _braces(code: str, task: Task) -> Cut:
    found = list(functions(code, task.language))
    own = next((each for each in found if each.name == task.entry_point), None)
    if own is None:
        return truncate(code, task)
    there = {each.name for each in functions(task.prompt, task.language)} | {task.entry_point, "main"}
    helpers = [code[each.start : each.end] for each in found if each.name not in there]
    if task.language == "cpp" and helpers:  # a helper has to come first
        head = task.prompt[: _start_of_own(task)]
        return Cut("\n".join([head, *helpers, code[own.start : own.end], ""]), whole=True)
    rest = [code[own.body : own.end], *helpers, *(["}"] if task.language == "java" else []), ""]
    return Cut("\n".join(rest))


def _start_of_own(task: Task) -> int:
    """Where in the prompt the function begins that is to be completed."""
    return next(each.start for each in functions(task.prompt, task.language) if each.name == task.entry_point)
