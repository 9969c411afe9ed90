"""What of a model's text is the answer: a function's body, where the text goes on and on.

Python: up to the first line in column 0. C-like: up to the brace that closes the function (Java: the class around it).
A model that begins by writing the signature again is taken at its word, not cut to nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from aquila.evaluate.lexing import BRACE_LANGUAGES, margin_lines, scan, without_hidden
from aquila.evaluate.tasks import Task

_MAY_PRECEDE = re.compile(r"(?:import|from|class|(?:async\s+)?def)\b|@|[A-Za-z_]\w*\s*(?::[^=\n]+)?=(?!=)")
_PREAMBLE = re.compile(
    r"""\s*(?:$|typedef\b|\#\s*include\b|using\b|import\b|package\b|use\s|\)\s*$|\#!?\[
    |(?:public\s+|final\s+|export\s+)*class\s+\w+[^{]*\{\s*$)""",
    re.VERBOSE,
)
# How a function is declared; NAME is its name. All end with the brace that opens its body.
_SIGNATURES = {
    "js": r"^[ \t]*(?:export[ \t]+)?(?:(?:const|let|var)[ \t]+NAME[ \t]*=[ \t]*(?:async\b[ \t]*)?(?:function\b[^({]*)?"
    r"(?:\([^{;]*?\)|\w+)[ \t]*(?:=>)?|(?:async[ \t]+)?function[ \t]+NAME[ \t]*\([^{;]*\))\s*\{",
    "go": r"^func[ \t]+NAME[ \t]*\((?:[^{}]|\{\s*\})*\{(?!\s*\})",
    "rust": r"^[ \t]*(?:pub[ \t]+)?fn[ \t]+NAME[ \t]*[(<][^{;]*\{",
    "java": r"^[ \t]*(?:@\w+\s+)?(?:(?:public|private|protected|static|final)[ \t]+)*(?:<[^>]+>[ \t]*)?"
    r"[\w<>\[\], .?]+[ \t]+NAME[ \t]*\([^{;]*\)[ \t]*(?:throws[\w, ]+)?\s*\{",
    "cpp": r"^[ \t]*(?:template[^\n]*\n)?[\w:<>,&* \t]+[ \t&*]NAME[ \t]*\([^{;]*\)\s*(?:const\s*)?\{",
}
_NO_NAMES = frozenset({"if", "for", "while", "switch", "catch"})  # that look like a function's
_FIRST_DEPTH = {"java": 2}  # of the body; 1 elsewhere


@dataclass(frozen=True)
class Cut:
    """What is judged.

    Attributes:
        text: goes on from the task's prompt, or is a whole program.
        whole: which of the two.
    """

    text: str
    whole: bool = False


@dataclass(frozen=True)
class Function:
    """Places in a text: where it starts, where its body does, and where it ends."""

    name: str
    start: int
    body: int
    end: int


def truncate(text: str, task: Task) -> Cut:
    """The answer in a text that goes on from the task's prompt, whose last line break may have been left to it."""
    text = re.sub(r"\A\r?\n", "", text)
    if task.language == "python":
        cut, _ = _cut_python(text, task.entry_point, is_whole=True)
    else:
        cut, _ = _cut_braces(text, task)
    return Cut(cut)


def is_complete(text: str, task: Task) -> bool:
    """Whether more text would be cut off."""
    text = re.sub(r"\A\r?\n", "", text)
    if task.language == "python":
        return _cut_python(text, task.entry_point, is_whole=False)[1]
    return _cut_braces(text, task)[1]


def _cut_python(text: str, entry_point: str, *, is_whole: bool) -> tuple[str, bool]:
    """The answer, and whether it is at its end."""
    first = re.search(r"^(?![ \t]*(?:#|\r?$)).+", text, re.MULTILINE)  # line with code
    if first is None:
        return _tidy(text) if is_whole else text, False
    if re.match(r"\s", first[0]):
        end = next((place for place in margin_lines(text, is_whole=is_whole)), None)
        return _tidy(text[:end]), end is not None
    definition = re.compile(rf"(?:async\s+)?def\s+{re.escape(entry_point)}\s*\(")
    found = False
    for place in margin_lines(text, is_whole=is_whole):
        if found:
            return _tidy(text[:place]), True
        if not is_whole and "\n" not in text[place:]:
            return text, False  # half a line may become anything
        found = definition.match(text, place) is not None
        if not found and not _MAY_PRECEDE.match(text, place):
            return "", True
    return (_tidy(text), False) if found else ("", False)


def _cut_braces(text: str, task: Task) -> tuple[str, bool]:
    start = _restated(text, task)
    if start is not None:
        text = text[start:]
    depth, closed = _FIRST_DEPTH.get(task.language, 1), None
    for kind, _, end in scan(text, task.language):
        if kind == "hidden":
            continue
        depth += 1 if kind == "{" else -1
        if depth == 0:
            line_ended = "\n" in text[end:]  # else the brace may be in a character that is not closed yet
            return text[:end] + (";" if text[end : end + 1] == ";" else "") + "\n", line_ended
        if kind == "}" and depth == 1:
            closed = end
    if task.language == "java" and closed is not None:  # the method is whole; the class around it is not
        return text[:closed] + "\n}\n", False
    return _tidy(text), False


def _restated(text: str, task: Task) -> int | None:
    """Where the body begins, if the text writes the signature again before anything else."""
    seen = without_hidden(text, task.language)
    found = signature(task.language, re.escape(task.entry_point)).search(seen)
    if found is None:
        return None
    before, last = [], 0
    for function in functions(text, task.language):
        if function.end <= found.start():
            before.append(seen[last : function.start])
            last = function.end
    before.append(seen[last : found.start()])
    return found.end() if all(_PREAMBLE.match(line) for line in "".join(before).split("\n")) else None


def functions(code: str, language: str) -> Iterator[Function]:
    """Functions of C-like code that are in no other function."""
    seen = without_hidden(code, language)
    braces = [(kind, end) for kind, _, end in scan(code, language) if kind != "hidden"]
    covered = 0
    for found in signature(language, r"\w+").finditer(seen):
        name = next(group for group in found.groups() if group)
        if found.start() < covered or name in _NO_NAMES:
            continue
        depth, covered = 1, len(code)
        for kind, place in braces:
            if place <= found.end():
                continue
            depth += 1 if kind == "{" else -1
            if depth == 0:
                covered = place
                break
        yield Function(name, found.start(), found.end(), covered)


def signature(language: str, name: str) -> re.Pattern[str]:
    """Of a function whose name matches `name`, up to the brace that opens it."""
    return re.compile(_SIGNATURES[language].replace("NAME", f"({name})"), re.MULTILINE)


def _tidy(text: str) -> str:
    kept = text.rstrip()
    return kept + "\n" if kept else ""


def has_rules(language: str) -> bool:
    return language == "python" or language in BRACE_LANGUAGES
