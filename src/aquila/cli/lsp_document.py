"""Open documents as the Language Server Protocol edits them: positions count UTF-16 units of a line, from 0.

Source: Language Server Protocol 3.18, `Position`, `TextDocumentContentChangeEvent`. Lines end with \\n, \\r\\n or \\r.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from aquila.cli.completer import Cursor

_LINE_END = re.compile(r"\r\n|\n|\r")


class Document:
    """The text of one open document, and where its lines begin."""

    def __init__(self, uri: str, text: str, version: int = 0) -> None:
        self.uri = uri
        self.version = version
        self._set(text)

    @property
    def text(self) -> str:
        return self._text

    def change(self, changes: Sequence[Mapping[str, Any]], version: int) -> None:
        """Applies edits in order; one without a range is the whole new text."""
        for change in changes:
            if "range" not in change:
                self._set(change["text"])
                continue
            start, end = self.offset(change["range"]["start"]), self.offset(change["range"]["end"])
            start, end = min(start, end), max(start, end)
            self._set(self._text[:start] + change["text"] + self._text[end:])
        self.version = version

    def offset(self, position: Mapping[str, int]) -> int:
        """Index into the text; what lies beyond a line or the text is its end, as the protocol has it."""
        number = position["line"]
        if number >= len(self._starts):
            return len(self._text)
        start = self._starts[number]
        following = self._starts[number + 1] if number + 1 < len(self._starts) else len(self._text)
        line = _LINE_END.sub("", self._text[start:following])
        return start + _index(line, position["character"])

    def cursor(
        self, span: Mapping[str, Mapping[str, int]], typed: str, extra: Sequence[tuple[str, str]] = ()
    ) -> Cursor:
        """The text around a cursor behind `typed`, as if that stood in place of a span; a span may be empty."""
        first, last = self.offset(span["start"]), self.offset(span["end"])
        start = self._starts[min(span["start"]["line"], len(self._starts) - 1)]
        name = self.uri.rpartition("/")[2]
        return Cursor(self._text[:start], self._text[start:first] + typed, self._text[last:], name, extra)

    def _set(self, text: str) -> None:
        self._text = text
        self._starts = [0, *(match.end() for match in _LINE_END.finditer(text))]


def _index(line: str, units: int) -> int:
    """Index of the character at a UTF-16 offset; within a pair of units it is that of the pair."""
    if line.isascii():
        return min(units, len(line))
    for index, character in enumerate(line):
        units -= 1 + (ord(character) > 0xFFFF)
        if units < 0:
            return index
    return len(line)
