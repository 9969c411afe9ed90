"""From the body of an instruction to JSON arguments, as it streams in.

    text    the whole body is the one required string
    lines   each line that is not empty is an item of the one required array
    json    a JSON object; whatever stands around it (a code fence, a sentence) is left out

A text or lines body that begins with `{` and a key that the tool has is read as JSON: so optional arguments, and
strings that a plain body cannot hold (blank ends, empty lines), can be written too. White space around bodies, and
around lines, is not part of them.
"""

import json
import re
from typing import Protocol, runtime_checkable

from aquila.chat.json_stream import JsonObjectStream
from aquila.chat.toolspec import ToolSpec, compact_json

_MAX_HEAD = 300  # characters in which the first key of a JSON body must be complete
_EMPTY = re.compile(r"\{\s*\}")
_FIRST_KEY = re.compile(r'\{\s*("(?:[^"\\]|\\.)*")\s*:', re.DOTALL)
_MAYBE_JSON = re.compile(r'\{\s*(?:"(?:[^"\\]|\\.)*(?:\\|"\s*)?)?', re.DOTALL)


@runtime_checkable  # the type checks of the tests ask it
class Body(Protocol):
    """Takes a body and gives fragments of its arguments; all of them joined are one JSON object."""

    def feed(self, text: str) -> str: ...

    def close(self) -> str: ...


def body_of(tool: ToolSpec) -> Body:
    """The reader of a tool's bodies."""
    if tool.form == "json":
        return JsonBody()
    plain = TextBody(tool.argument) if tool.form == "text" else LinesBody(tool.argument)
    return EitherBody(plain, tuple(tool.properties))


class JsonBody:
    def __init__(self) -> None:
        self._stream = JsonObjectStream()
        self._started = False

    def feed(self, text: str) -> str:
        if not self._started:
            start = text.find("{")
            if start < 0:
                return ""
            self._started, text = True, text[start:]
        return self._stream.feed(text)

    def close(self) -> str:
        return self._stream.close()


class TextBody:
    def __init__(self, argument: str) -> None:
        self._head = "{" + compact_json(argument) + ':"'
        self._started = False
        self._blanks = ""  # white space that is inside only if something follows

    def feed(self, text: str) -> str:
        if not self._started:
            text = text.lstrip()
        content = text.rstrip()
        if not content:
            self._blanks += text
            return ""
        fragment = ("" if self._started else self._head) + _escape(self._blanks + content)
        self._started, self._blanks = True, text[len(content) :]
        return fragment

    def close(self) -> str:
        return '"}' if self._started else "{}"


class LinesBody:
    def __init__(self, argument: str) -> None:
        self._head = "{" + compact_json(argument) + ":["
        self._num_items = 0
        self._in_item = False
        self._blanks = ""

    def feed(self, text: str) -> str:
        out: list[str] = []
        for index, part in enumerate(text.split("\n")):
            if index and self._in_item:
                out.append('"')
            if index:
                self._in_item, self._blanks = False, ""
            out.append(self._part(part))
        return "".join(out)

    def _part(self, part: str) -> str:
        if not self._in_item:
            part = part.lstrip()
        content = part.rstrip()
        if not content:
            self._blanks += part
            return ""
        opening = "" if self._in_item else (',"' if self._num_items else self._head + '"')
        self._num_items += not self._in_item
        fragment = opening + _escape(self._blanks + content)
        self._in_item, self._blanks = True, part[len(content) :]
        return fragment

    def close(self) -> str:
        if not self._num_items:
            return "{}"
        return '"]}' if self._in_item else "]}"


class EitherBody:
    """A plain body, or JSON: decided by how it begins."""

    def __init__(self, plain: Body, keys: tuple[str, ...]) -> None:
        self._plain = plain
        self._keys = keys
        self._head = ""
        self._body: Body | None = None

    def feed(self, text: str) -> str:
        if self._body is not None:
            return self._body.feed(text)
        self._head = (self._head + text).lstrip()
        self._body = self._decide(self._head[:_MAX_HEAD])
        return self._body.feed(self._head) if self._body is not None else ""

    def close(self) -> str:
        if self._body is not None:
            return self._body.close()
        return self._plain.feed(self._head) + self._plain.close()

    def _decide(self, head: str) -> Body | None:
        if not head:
            return None
        if _EMPTY.match(head):
            return JsonBody()
        if key := _FIRST_KEY.match(head):
            return JsonBody() if _loads_key(key[1]) in self._keys else self._plain
        return None if len(head) < _MAX_HEAD and _MAYBE_JSON.fullmatch(head) else self._plain


def _loads_key(text: str) -> str | None:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _escape(text: str) -> str:
    """The inside of a JSON string. Half a surrogate pair, which no UTF-8 can carry, becomes U+FFFD."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return json.dumps(whole, ensure_ascii=False)[1:-1]
