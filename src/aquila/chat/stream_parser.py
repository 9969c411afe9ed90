"""Reads the special instruction specification as a model writes it.

    turn   := preface? ( "#" NAME "#" NL body )*      a tag is alone on its line, from its first column on
    escape := a line that looks like a tag, with a backslash before it, is that line as text
    fence  := inside a Markdown code block nothing is a tag and nothing is escaped; only the block's own fence with a
              backslash behind it ends the block and is no text (so that a call can follow a block left open)

A tag whose name no tool has is text. A line is held back only while it can still become a tag, a line break until the
line behind it is known: the break before a tag belongs to the tag. `feed` and `finish` give events; joined, they do not
depend on how the text was cut.
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from aquila.chat.call_body import Body, body_of
from aquila.chat.toolspec import ToolTable

_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,127}"
TAG_LINE = re.compile(rf"(?P<escape>\\*)#(?P<name>{_NAME})#[ \t\r]{{0,8}}")
_MAYBE_TAG = re.compile(rf"\\*(?:#(?:{_NAME}(?:#[ \t\r]{{0,8}})?)?)?")
_FENCE = re.compile(r"[ \t]*(?:[-*+][ \t]+|\d+[.)][ \t]+)?(`{3,}|~{3,})([^\n]*)")
_ESCAPES = re.compile(r"\\+")


@dataclass(frozen=True)
class Text:
    """More of what is shown to the user."""

    text: str


@dataclass(frozen=True)
class CallBegin:
    """A call starts; `index` counts the calls of the turn from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class Arguments:
    """More of a call's arguments: all fragments joined are one JSON object."""

    index: int
    fragment: str


@dataclass(frozen=True)
class CallEnd:
    index: int


Event = Text | CallBegin | Arguments | CallEnd


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


class Fence:
    """Whether a line stands inside a Markdown code block; `mark` is the fence that would close it."""

    def __init__(self) -> None:
        self.mark = ""

    def pass_line(self, line: str) -> None:
        """Takes a whole line, without its break."""
        match = _FENCE.fullmatch(line)
        if match is None:
            return
        mark, behind = match[1], match[2]
        if not self.mark:
            self.mark = mark if mark[0] == "~" or "`" not in behind else ""
        elif mark.startswith(self.mark) and not behind.strip():
            self.mark = ""

    def escapes(self, line: str) -> int:
        """Backslashes behind the fence on a line of an open block that has nothing else; 0 for any other line."""
        behind = line.removeprefix(self.mark)
        return len(behind) if self.mark and len(behind) < len(line) and _ESCAPES.fullmatch(behind) else 0

    def may_break(self, start: str) -> bool:
        """Whether a line that starts so can still have `escapes`."""
        return self.mark.startswith(start) or self.escapes(start) > 0


class InstructionParser:
    """Text of one turn in, events out.

    Args:
        table: tools that can be called.
        new_id: makes the id of a call.
    """

    def __init__(self, table: ToolTable, *, new_id: Callable[[], str] = new_call_id) -> None:
        self._table = table
        self._new_id = new_id
        self._fence = Fence()
        self._line = ""  # the line that is being read
        self._passed = 0  # how much of it has left
        self._break = ""  # the line break before it, unless that has left
        self._body: Body | None = None
        self._index = -1
        self._events: list[Event] = []

    def feed(self, text: str) -> list[Event]:
        """More of the turn."""
        self._events = []
        *lines, rest = text.split("\n")
        for line in lines:
            self._line += line
            self._end_line(last=False)
        self._line += rest
        if self._line and (self._passed or not self._is_open()):
            self._pass(self._line[self._passed :])
            self._passed = len(self._line)
        return self._events

    def finish(self) -> list[Event]:
        """The turn is over: what was held back, and the end of a call."""
        self._events = []
        self._end_line(last=True)
        self._end_call()
        return self._events

    def _is_open(self) -> bool:
        """Whether the line can still become something other than text."""
        if self._fence.mark:
            return self._fence.may_break(self._line)
        return _MAYBE_TAG.fullmatch(self._line) is not None

    def _end_line(self, *, last: bool) -> None:
        line, passed = self._line, self._passed
        self._line, self._passed = "", 0
        next_break = "" if last else "\n"
        if not passed:
            tag = None if self._fence.mark else TAG_LINE.fullmatch(line)
            escapes = self._fence.escapes(line)
            if tag and not tag["escape"] and tag["name"] in self._table.by_tag:
                self._begin_call(tag["name"])
                return
            if escapes == 1:
                self._fence.mark = ""
                self._break = next_break
                return
            if tag and tag["escape"]:
                line = line[1:]
            elif escapes:
                line = line[:-1]
        self._pass(line[passed:])
        self._fence.pass_line(line)
        self._break = next_break

    def _pass(self, text: str) -> None:
        """Text of the current line; the break before it goes first."""
        self._emit(self._break + text)
        self._break = ""

    def _emit(self, text: str) -> None:
        if not text:
            return
        if self._body is None:
            self._events.append(Text(text))
        elif fragment := self._body.feed(text):
            self._events.append(Arguments(self._index, fragment))

    def _begin_call(self, tag: str) -> None:
        self._end_call()
        tool = self._table.by_tag[tag]
        self._index += 1
        self._break = ""
        self._body = body_of(tool)
        self._events.append(CallBegin(self._index, self._new_id(), tool.name))

    def _end_call(self) -> None:
        if self._body is None:
            return
        if fragment := self._body.close():
            self._events.append(Arguments(self._index, fragment))
        self._events.append(CallEnd(self._index))
        self._body = None
