"""Splits Markdown, as it streams in, into blocks that can no longer change and one that still can.

A finished block may be drawn once and left alone, so a token costs no more at the end of a long answer than
at its start. A block ends where a line after a blank one begins in the first column, or with an unindented
code fence; an indented line after a blank one may still belong to a list item.
"""

import re

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_OPENING_FENCE = re.compile(r"\s*(?:[-*+]\s+|\d+[.)]\s+)?(`{3,}|~{3,})[^`]*\n")


class MarkdownBlocks:
    """`push` text, get finished blocks; `open` is the rest. All of them joined are the text."""

    def __init__(self) -> None:
        self._lines = ""  # whole lines of the open block
        self._line = ""  # the line that is still being written
        self._fence = ""  # marker of the code fence that we are in
        self._fence_indented = False
        self._after_blank = False

    @property
    def open(self) -> str:
        return self._lines + self._line

    def push(self, text: str) -> list[str]:
        """Takes more text and returns the blocks that it finishes."""
        finished: list[str] = []
        for part in _LINE.findall(text):
            if self._after_blank and not self._line and not part[0].isspace() and self._lines.strip():
                finished.append(self._cut())
            self._line += part
            if part.endswith("\n") and self._end_line():
                finished.append(self._cut())
        return finished

    def _end_line(self) -> bool:
        """Files the line away; True if it closes the block."""
        line, self._line = self._line, ""
        self._lines += line
        self._after_blank = not self._fence and not line.strip()
        if self._fence:
            mark = line.strip()
            if mark.startswith(self._fence) and not mark.strip(self._fence[0]):
                self._fence = ""
                return not self._fence_indented
        elif opening := _OPENING_FENCE.match(line):
            self._fence = opening[1]
            self._fence_indented = opening.start(1) > 0
        return False

    def _cut(self) -> str:
        block, self._lines, self._after_blank = self._lines, "", False
        return block
