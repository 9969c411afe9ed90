"""Where code is code: outside of strings, characters, comments, raw strings, templates and regular expressions.

No parser: a completion may end anywhere, and need not be right. Enough is read to tell a brace from the text of one.
"""

import re
from collections.abc import Generator, Iterator

_LINE_COMMENT, _BLOCK_COMMENT = r"//[^\n]*", r"/\*.*?(?:\*/|\Z)"
_DOUBLE = r'"(?:\\.|[^"\\\n])*(?:"|(?=\n)|\Z)'  # a line's end closes what is left open
_SINGLE = r"'(?:\\.|[^'\\\n])*(?:'|(?=\n)|\Z)"
_CHARACTER = r"'(?:\\[^'\n]*'|\\''|[^'\\\n]')"
_HIDDEN = {
    "cpp": [r'R"(?P<mark>[^()\\\s]{0,16})\(.*?(?:\)(?P=mark)"|\Z)', r"\b\d(?:'?[\w.])*", _DOUBLE, _CHARACTER],
    "java": [r'"""(?:\\.|[^\\])*?(?:"""|\Z)', _DOUBLE, _CHARACTER],
    "go": [r"`[^`]*(?:`|\Z)", _DOUBLE, _CHARACTER],
    "rust": [r'\bb?r(?P<mark>\#*)".*?(?:"(?P=mark)|\Z)', r'"(?:\\.|[^"\\])*(?:"|\Z)', _CHARACTER],
    "js": [_DOUBLE, _SINGLE],
}
_PATTERNS = {
    language: re.compile("|".join([_LINE_COMMENT, _BLOCK_COMMENT, *hidden, r"[{}`/]"]), re.DOTALL)
    for language, hidden in _HIDDEN.items()
}
_TEMPLATE = re.compile(r"(?:\\.|\$(?!\{)|[^`\\$])*(?P<end>`|\$\{|\Z)", re.DOTALL)
_REGEX = re.compile(r"/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\[\n])+/\w*")
_BEFORE_REGEX = re.compile(r"(?:^|[(,=:\[!&|?{};+\-*%~^<>]|\b(?:return|typeof|case|in|of|void|delete))\s*\Z")
BRACE_LANGUAGES = tuple(_HIDDEN)

_PYTHON = re.compile(
    r"\#[^\n]*"
    r'|"""(?:\\.|[^\\])*?"""|' + r"'''(?:\\.|[^\\])*?'''"
    r'|(?P<open>"""|' + r"''')"
    r'|"(?:\\.|[^"\\\n])*(?:"|(?=\n)|\Z)|' + r"'(?:\\.|[^'\\\n])*(?:'|(?=\n)|\Z)"
    r"|\\\r?\n|[()\[\]{}\n]",
    re.DOTALL,
)
_CODE_AT_MARGIN = re.compile(r"[^\s#]")
_NEVER_IN_BRACKETS = re.compile(r"(?:def|class|import)\s|from\s+\S+\s+import\b|@\w|if\s+__name__\b")


def scan(text: str, language: str) -> Iterator[tuple[str, int, int]]:
    """Braces and hidden stretches of C-like code, in order: `{`, `}` or `hidden`, start and end."""
    pattern, place = _PATTERNS[language], 0
    templates: list[int] = []  # of each template that is open: braces open in its substitution
    while found := pattern.search(text, place):
        start, place = found.span()
        kind = found[0]
        if kind == "`":
            place = yield from _template(text, start, place, templates)
        elif kind == "/":
            match = _REGEX.match(text, start) if language == "js" and _BEFORE_REGEX.search(text, 0, start) else None
            if match:
                place = match.end()
                yield "hidden", start, place
        elif kind == "}" and templates and templates[-1] == 0:
            templates.pop()
            place = yield from _template(text, start, place, templates)
        elif kind in "{}":
            if templates:
                templates[-1] += 1 if kind == "{" else -1
            yield kind, start, place
        else:
            yield "hidden", start, place


def _template(text: str, start: int, place: int, templates: list[int]) -> Generator[tuple[str, int, int], None, int]:
    found = _TEMPLATE.match(text, place)
    assert found is not None, "it matches the empty text"
    yield "hidden", start, found.end()
    if found["end"] == "${":
        templates.append(0)
    return found.end()


def without_hidden(text: str, language: str) -> str:
    """The text with spaces where strings and comments are, and every line and place as it was."""
    parts, last = [], 0
    for kind, start, end in scan(text, language):
        if kind == "hidden":
            parts += [text[last:start], re.sub(r"[^\n]", " ", text[start:end])]
            last = end
    return "".join([*parts, text[last:]])


def margin_lines(text: str, *, is_whole: bool) -> Iterator[int]:
    """Where lines of Python begin with code in column 0, outside of strings and brackets. Comments do not count.

    Args:
        text: Python, possibly cut off.
        is_whole: no more will come: then a string that is left open is none.
    """
    depth, place = 0, 0
    if _CODE_AT_MARGIN.match(text):
        yield 0
    while found := _PYTHON.search(text, place):
        place = found.end()
        if found["open"]:
            if not is_whole:
                return
        elif found[0] in "([{":
            depth += 1
        elif found[0] in ")]}":
            depth = max(0, depth - 1)
        elif found[0] == "\n":
            if depth and _NEVER_IN_BRACKETS.match(text, place):
                depth = 0  # a bracket that was never closed
            if depth == 0 and _CODE_AT_MARGIN.match(text, place):
                yield place
