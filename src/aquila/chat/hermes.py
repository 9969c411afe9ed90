"""Calls as models of other families write them: `<tool_call>` and a JSON object with `name` and `arguments`.

    Text.
    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

Source: the function-calling format of Nous Research's Hermes models, which Qwen and others share. Arguments stream as
soon as the name is known. What only looks like a call (a name that no tool has, no JSON behind it, a code block
around it) is text. A literal `<tool_call>` in a text is written with a backslash before it.
"""

import json
import re
from collections.abc import Callable

from aquila.chat.instructions import Turn, turn_of
from aquila.chat.json_stream import JsonObjectStream
from aquila.chat.stream_parser import Arguments, CallBegin, CallEnd, Event, Fence, Text, new_call_id
from aquila.chat.toolspec import ToolTable, compact_json

OPEN = "<tool_call>"
CLOSE = "</tool_call>"
_OPENING = re.compile(rf"(\\*){OPEN}")
_HEAD = re.compile(
    r'B\{B"name"B:B("(?:[^"\\]|\\.)*")B,B"(?:arguments|parameters)"B:B(?=\{)'.replace("B", r"[ \t\r\n]*"), re.DOTALL
)


class HermesParser:
    """Text of one turn in, events out; as `stream_parser.InstructionParser`."""

    def __init__(self, table: ToolTable, *, new_id: Callable[[], str] = new_call_id) -> None:
        self._table = table
        self._new_id = new_id
        self._fence = Fence()
        self._text = ""  # not read yet
        self._line = ""  # what of the current line has been read
        self._break = ""  # a line break that belongs to a call if one follows
        self._call: _HermesCall | None = None
        self._after_call = False  # white space there belongs to the calls
        self._said = False
        self._index = -1
        self._events: list[Event] = []

    def feed(self, text: str) -> list[Event]:
        """More of the turn."""
        self._events = []
        self._text += text
        self._read(last=False)
        return self._events

    def finish(self) -> list[Event]:
        """The turn is over."""
        self._events = []
        self._read(last=True)
        self._emit("")
        return self._events

    def _read(self, *, last: bool) -> None:
        while self._text or (last and self._call is not None):
            ready = self._read_text(last) if self._call is None else self._read_call(self._call, last)
            if not ready:
                return

    def _read_text(self, last: bool) -> bool:
        """Passes text on up to the next call; False if more is needed to go on."""
        if self._after_call:
            self._text = self._text.lstrip()
            if not self._text:
                return False
        end = self._text.find("\n")
        line = self._text if end < 0 else self._text[:end]
        whole = end >= 0 or last
        if self._fence.mark:
            return self._read_block_line(line, end, whole)
        opening = _OPENING.search(line)
        if opening is None:
            held = 0 if whole else _held_back(line)
            self._pass(line[: len(line) - held], end, len(line) - held)
            return end >= 0 or not held
        before = line[: opening.start()]
        if opening[1]:
            self._pass(before + opening[0][1:], -1, opening.end())
            return True
        if before:
            self._pass(before, -1, len(before))
        self._call = _HermesCall()
        self._text = self._text[len(OPEN) :]
        return True

    def _read_block_line(self, line: str, end: int, whole: bool) -> bool:
        if not self._line:
            if not whole and self._fence.may_break(line):
                return False
            escapes = self._fence.escapes(line)
            if escapes == 1:
                self._fence.mark = ""
                self._text = self._text[end + 1 :] if end >= 0 else ""
                self._break = "\n" if end >= 0 else ""
                return True
            if escapes:
                self._pass(line[:-1], end, len(line))
                return True
        self._pass(line, end, len(line))
        return True

    def _pass(self, shown: str, end: int, length: int) -> None:
        """Emits a part of the current line that took `length` characters; `end` is where its break stands, or -1."""
        if shown:
            self._emit(shown)
        self._line += shown
        self._text = self._text[length:]
        if end < 0 or not self._text.startswith("\n"):
            return
        self._text = self._text[1:]
        self._fence.pass_line(self._line)
        self._emit("")
        self._line, self._break = "", "\n"

    def _emit(self, text: str) -> None:
        if self._after_call and text:
            self._break, self._after_call = "\n" if self._said else "", False
        if self._break + text:
            self._events.append(Text(self._break + text))
            self._said = True
        self._break = ""

    def _read_call(self, call: "_HermesCall", last: bool) -> bool:
        """Goes on with a call; False if more is needed."""
        text, self._text = self._text, ""
        rest = call.feed(text, last)
        if call.name is None:
            return False
        if call.name not in self._table.by_name:  # text after all
            self._call = None
            self._emit(OPEN)
            self._line += OPEN
            self._text = call.raw
            return True
        if not call.announced:
            call.announced = True
            self._index += 1
            self._break = ""
            self._events.append(CallBegin(self._index, self._new_id(), call.name))
        if fragment := call.take():
            self._events.append(Arguments(self._index, fragment))
        if rest is None:
            return False
        self._events.append(CallEnd(self._index))
        self._call, self._after_call, self._line = None, True, ""
        self._text = rest
        return True


class _HermesCall:
    """What stands behind an opening tag. `name` is None until it is known, and empty where there is no call."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.raw = ""
        self.announced = False
        self._whole = JsonObjectStream()
        self._arguments: JsonObjectStream | None = None
        self._fragments = ""
        self._tail: str | None = None  # what is behind the JSON

    def take(self) -> str:
        """New fragments of the arguments."""
        fragments, self._fragments = self._fragments, ""
        return fragments

    def feed(self, text: str, last: bool) -> str | None:
        """More text; returns what stands behind the call once it is over."""
        self.raw += text
        if self._tail is None:
            self._read(text)
            if not (self._whole.done or self._whole.failed or last):
                return None
            self._complete()
            text, self._tail = self._whole.rest, ""
        self._tail += text
        close, reopen = self._tail.find(CLOSE), self._tail.find(OPEN)
        if close >= 0 and not 0 <= reopen < close:
            return self._tail[close + len(CLOSE) :]
        if reopen >= 0:
            return self._tail[reopen:]
        return "" if last else None

    def _read(self, text: str) -> None:
        self._whole.feed(text)
        if self._arguments is not None:
            self._fragments += self._arguments.feed(text)
        elif self.name is None and (head := _HEAD.match(self.raw)):
            self.name = _name(head[1])
            self._arguments = JsonObjectStream()
            self._fragments += self._arguments.feed(self.raw[head.end() :])

    def _complete(self) -> None:
        """The JSON has ended, well or not."""
        if self._arguments is not None:
            self._fragments += self._arguments.close()
            return
        self.name = ""
        if not self._whole.done:
            return
        object_stream = JsonObjectStream()  # `name` behind `arguments`, or no arguments: read it as a whole
        whole = json.loads(object_stream.feed(self.raw))
        arguments = whole.get("arguments", whole.get("parameters", {}))
        if isinstance(whole.get("name"), str) and isinstance(arguments, dict):
            self.name, self._fragments = whole["name"], compact_json(arguments)


def _name(quoted: str) -> str:
    try:
        return json.loads(quoted, strict=False)
    except ValueError:
        return ""


def _held_back(line: str) -> int:
    """Characters at the end of a line that may be the start of a tag, backslashes before it included."""
    start = next(size for size in range(len(OPEN) - 1, -1, -1) if line.endswith(OPEN[:size]))
    before = line[: len(line) - start]
    return start + len(before) - len(before.rstrip("\\"))


def render(turn: Turn, table: ToolTable) -> str:
    """Writes a turn as the model would."""
    fence = Fence()
    lines: list[str] = []
    for line in turn.content.split("\n"):
        if fence.mark:
            lines.append(line + "\\" if fence.escapes(line) else line)
        else:
            lines.append(_OPENING.sub(lambda match: "\\" + match[0], line))
        fence.pass_line(line)
    parts = ["\n".join(lines)] if turn.content else []
    if fence.mark and turn.calls:
        parts.append(fence.mark + "\\")
    for call in turn.calls:
        whole = {"name": call.name, "arguments": dict(call.arguments)}
        parts.append(f"{OPEN}\n{json.dumps(whole, ensure_ascii=False)}\n{CLOSE}")
    return "\n".join(parts)


def parse(text: str, table: ToolTable) -> Turn:
    """Reads a whole turn."""
    parser = HermesParser(table)
    return turn_of([*parser.feed(text), *parser.finish()])
