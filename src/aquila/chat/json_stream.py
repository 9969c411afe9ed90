"""Passes a JSON object through as it arrives, so that what has left is valid JSON once `close()` is added.

Models write JSON a token at a time, sometimes wrong. Blanks outside strings are dropped, a raw line break in a string
becomes `\\n`, Python's `True`, `False` and `None` become JSON's. A key leaves together with the start of its value, a
number or a word when it is complete, half of a surrogate pair with the other half. At the first thing that is not
JSON the stream has failed: the rest is ignored, and what was understood stays.
"""

import json
import math
import re
from collections.abc import Callable

MAX_DEPTH = 64  # json.loads recurses; real arguments are a few levels deep
MAX_SCALAR = 400  # characters of a number: Python refuses to read integers of more than 4300 digits
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS = {word: word for word in ("true", "false", "null")} | {"True": "true", "False": "false", "None": "null"}
_BLANKS = " \t\r\n"
_CLOSING = {"{": "}", "[": "]"}
_PLAIN = re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]+')
_LOW = re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")


class JsonObjectStream:
    """`feed` text and get what can be passed on; `close` gives what is missing. Together always one JSON object.

    Attributes:
        done: the object is complete.
        failed: something was not JSON; it and what follows is ignored.
        rest: the text behind the object, or from the fault on.
    """

    def __init__(self) -> None:
        self.done = False
        self.failed = False
        self.rest = ""
        self._stack: list[str] = []
        self._held = ""  # comma and key, until the value starts
        self._token = ""  # a key, a scalar or an escape that is not complete
        self._in_key = False
        self._read: Callable[[str], str] = self._start
        self._out: list[str] = []

    def feed(self, text: str) -> str:
        """More text; returns what may leave."""
        self._out = []
        while text and not self.done and not self.failed:
            text = self._read(text)
        if self.done or self.failed:
            self.rest += text
        return "".join(self._out)

    def close(self) -> str:
        """What makes all that has left a whole object; `{}` if nothing has."""
        if self.done:
            return ""
        self._out = []
        if self._read == self._scalar and not self.failed:
            self._end_scalar()
        if not self._stack:
            return "{}"
        if self._read in (self._string, self._escape) and not self._in_key:
            self._out.append('"')
        self._out += [_CLOSING[each] for each in reversed(self._stack)]
        return "".join(self._out)

    def _start(self, text: str) -> str:
        text = text.lstrip(_BLANKS)
        if text and text[0] == "{":
            return self._open(text)
        self.failed = bool(text)
        return text

    def _open(self, text: str) -> str:
        if len(self._stack) == MAX_DEPTH:
            self.failed = True
            return text
        self._emit(text[0])
        self._stack.append(text[0])
        self._read = self._key_or_end if text[0] == "{" else self._value_or_end
        return text[1:]

    def _emit(self, text: str) -> None:
        self._out.append(self._held + text)
        self._held = ""

    def _key_or_end(self, text: str) -> str:
        text = text.lstrip(_BLANKS)
        return self._close_one(text) if text[:1] == "}" else self._key(text)

    def _key(self, text: str) -> str:
        text = text.lstrip(_BLANKS)
        if not text:
            self._read = self._key if self._held else self._key_or_end
            return text
        if text[0] != '"':
            self.failed = True
            return text
        self._in_key = True
        self._held += '"'
        self._read = self._string
        return text[1:]

    def _value_or_end(self, text: str) -> str:
        text = text.lstrip(_BLANKS)
        if not text:
            return text
        return self._close_one(text) if text[0] == "]" else self._value(text)

    def _colon(self, text: str) -> str:
        text = text.lstrip(_BLANKS)
        if text and text[0] != ":":
            self.failed = True
            return text
        if text:
            self._held += ":"
            self._read = self._value
        return text[1:]

    def _value(self, text: str) -> str:
        text = text.lstrip(_BLANKS)
        if not text:
            return text
        if text[0] in "{[":
            return self._open(text)
        if text[0] == '"':
            self._emit('"')
            self._read = self._string
            return text[1:]
        self._read = self._scalar
        return text

    def _scalar(self, text: str) -> str:
        room = MAX_SCALAR + 1 - len(self._token)
        end = next((index for index, char in enumerate(text[:room]) if char in ",]}" or char in _BLANKS), len(text))
        end = min(end, room)
        self._token += text[:end]
        if len(self._token) > MAX_SCALAR:
            self.failed = True
        elif end < len(text):
            self._end_scalar()
        return text[end:]

    def _end_scalar(self) -> None:
        token, self._token = self._token, ""
        word = _WORDS.get(token) or (token if _NUMBER.fullmatch(token) and math.isfinite(float(token)) else "")
        if not word:
            self.failed = True
            return
        self._emit(word)
        self._read = self._after

    def _string(self, text: str) -> str:
        if plain := _PLAIN.match(text):
            self._put(plain[0])
            return text[plain.end() :]
        if text[0] == "\\":
            self._token = ""
            self._read = self._escape
            return text
        if text[0] == '"':
            self._put('"')
            self._read = self._colon if self._in_key else self._after
            self._in_key = False
        else:  # a control character, or half a pair
            self._put("\\ufffd" if "\ud800" <= text[0] <= "\udfff" else json.dumps(text[0])[1:-1])
        return text[1:]

    def _put(self, text: str) -> None:
        if self._in_key:
            self._held += text
        else:
            self._out.append(text)

    def _escape(self, text: str) -> str:
        """Collects one escape, or two that make a surrogate pair."""
        self._token += text[0]
        token, text = self._token, text[1:]
        if len(token) == 2 and token[1] != "u":
            if token[1] not in '"\\/bfnrt':  # `\d` of a regular expression, not escaped enough: keep it as it is read
                token = "\\\\" + token[1] if token[1] >= " " else "\\\\" + json.dumps(token[1])[1:-1]
            return self._end_escape(token, text)
        if 2 < len(token) <= 6 and token[-1] not in "0123456789abcdefABCDEF":
            self.failed = True
            return text
        if len(token) < 6:
            return text
        high = token[2] in "dD" and token[3] in "89abAB"
        if not high:
            lone = token[2] in "dD" and token[3] in "cdefCDEF"
            return self._end_escape("\\ufffd" if lone else token, text)
        if len(token) == 12:
            return self._end_escape(token, text) if _LOW.fullmatch(token[6:]) else self._replay(token, text)
        follows = token[6:]
        if follows and not ("\\u"[: len(follows)] == follows[:2] and _could_be_low(follows)):
            return self._replay(token, text)
        return text

    def _end_escape(self, escape: str, text: str) -> str:
        self._token = ""
        self._put(escape)
        self._read = self._string
        return text

    def _replay(self, token: str, text: str) -> str:
        """A high surrogate without a low one: it becomes U+FFFD, and what followed is read again."""
        return token[6:] + self._end_escape("\\ufffd", text)

    def _after(self, text: str) -> str:
        text = text.lstrip(_BLANKS)
        if not text:
            return text
        if text[0] == ",":
            self._held = ","
            self._read = self._key if self._stack[-1] == "{" else self._value
            return text[1:]
        return self._close_one(text)

    def _close_one(self, text: str) -> str:
        if not text or text[0] != _CLOSING[self._stack[-1]]:
            self.failed = bool(text)
            return text
        self._stack.pop()
        self._out.append(text[0])
        self._read = self._after
        self.done = not self._stack
        return text[1:]


def _could_be_low(follows: str) -> bool:
    """Whether text behind a high surrogate can still become a low one; `\\uDC00`, case aside."""
    patterns = ("\\", "u", "dD", "cdefCDEF", "0123456789abcdefABCDEF", "0123456789abcdefABCDEF")
    return all(char in allowed for char, allowed in zip(follows, patterns, strict=False))
