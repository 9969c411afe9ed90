"""Python values as JSON text and back: what a called function is given, and what it answers.

Only exact builtins come out of `decode`, whatever went in: a subclass is reduced to its base by the base's own methods,
never by ones that the sample may have overridden, so no answer can bring its own idea of equality. None, bool, str,
float, list and small int are themselves in JSON; everything else is an object of one key:

    {"i": hex} int   {"f": repr} float, {"y": text} str, {"l": [..]} list, of subclasses
    {"t": [..]} tuple   {"d": [[k, v], ..]} dict   {"s": [..]} set   {"z": [..]} frozenset
    {"b": hex} bytes   {"a": hex} bytearray   {"c": [re, im]} complex   {"r": [start, stop, step]} range
    {"k": [..]} {"v": [..]} {"m": [[k, v], ..]} views of a dict   {"e": [..]} deque   {"n": [..]} any other iterator
    {"q": [hex, hex]} Fraction   {"u": text} Decimal
"""

import collections
import json
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any

MAX_ITEMS = 1_000_000  # of an iterator
_SMALL = 1 << 53
_KEYS, _VALUES, _ITEMS = type({}.keys()), type({}.values()), type({}.items())


class NotPlainError(TypeError):
    """The value is none of the types that can be compared outside."""


def to_json(value: object) -> str:
    return json.dumps(_encode(value))


def from_json(text: str | bytes) -> Any:
    """The value in `text`, made of exact builtins (and deque, Fraction, Decimal).

    Raises:
        ValueError: the text is not what `to_json` writes.
    """
    try:
        return decode(json.loads(text))
    except (ArithmeticError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"not an encoded value: {error}") from None


def _encode(value: Any) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int:
        return value if -_SMALL < value < _SMALL else {"i": hex(value)}
    if kind is list:
        return [_encode(item) for item in value]
    if kind is tuple:
        return {"t": [_encode(item) for item in value]}
    if kind is dict:
        return {"d": [[_encode(key), _encode(item)] for key, item in value.items()]}
    return _encode_scalar(value) or _encode_container(value) or _refuse(value)


def _encode_scalar(value: Any) -> dict[str, Any] | None:
    """Numbers, bytes and subclasses of the plain types."""
    if isinstance(value, str):
        return {"y": str.__str__(value)}
    if isinstance(value, int):
        return {"i": hex(int.__add__(value, 0))}
    if isinstance(value, float):
        return {"f": float.__repr__(value)}
    if isinstance(value, complex):
        return {"c": [float.__repr__(complex.__add__(value, 0).real), float.__repr__(complex.__add__(value, 0).imag)]}
    if isinstance(value, bytes):
        return {"b": bytes.hex(value)}
    if isinstance(value, bytearray):
        return {"a": bytearray.hex(value)}
    if type(value) is Fraction:
        return {"q": [hex(value.numerator), hex(value.denominator)]}
    if type(value) is Decimal:
        return {"u": Decimal.__str__(value)}
    return None


def _encode_container(value: Any) -> dict[str, Any] | None:
    kind = type(value)
    if kind is range:
        return {"r": [hex(value.start), hex(value.stop), hex(value.step)]}
    if isinstance(value, dict):
        return {"d": [[_encode(key), _encode(item)] for key, item in dict.items(value)]}
    if kind is _ITEMS:
        return {"m": [[_encode(key), _encode(item)] for key, item in value]}
    for base, tag in _SEQUENCES:
        if isinstance(value, base):
            return {tag: [_encode(item) for item in base.__iter__(value)]}
    if isinstance(value, Iterator):
        items = [_encode(item) for item in islice(value, MAX_ITEMS + 1)]
        if len(items) > MAX_ITEMS:
            raise NotPlainError(f"an iterator of more than {MAX_ITEMS} items")
        return {"n": items}
    return None


_SEQUENCES: tuple[tuple[Any, str], ...] = (
    (list, "l"),
    (tuple, "t"),
    (set, "s"),
    (frozenset, "z"),
    (collections.deque, "e"),
    (_KEYS, "k"),
    (_VALUES, "v"),
)


def _refuse(value: object) -> Any:
    raise NotPlainError(f"a value of type {type(value).__name__}")


def decode(data: Any) -> Any:
    """The value that parsed JSON stands for; raises whatever a malformed one leads to."""
    if type(data) is list:
        return [decode(item) for item in data]
    if type(data) is not dict:
        return data
    ((tag, content),) = data.items()
    return _DECODERS[tag](content)


def _items(content: list[Any]) -> list[Any]:
    return [decode(item) for item in content]


def _mapping(content: list[Any]) -> dict[Any, Any]:
    return {decode(key): decode(value) for key, value in content}


_DECODERS: dict[str, Any] = {
    "i": lambda text: int(text, 16),
    "f": float,
    "y": lambda text: _text(text),
    "l": _items,
    "t": lambda content: tuple(_items(content)),
    "d": _mapping,
    "s": lambda content: set(_items(content)),
    "z": lambda content: frozenset(_items(content)),
    "b": bytes.fromhex,
    "a": bytearray.fromhex,
    "c": lambda parts: complex(float(parts[0]), float(parts[1])),
    "r": lambda parts: range(*(int(part, 16) for part in parts)),
    "k": lambda content: dict.fromkeys(_items(content)).keys(),
    "v": lambda content: dict(enumerate(_items(content))).values(),
    "m": lambda content: _mapping(content).items(),
    "e": lambda content: collections.deque(_items(content)),
    "n": lambda content: iter(_items(content)),
    "q": lambda parts: Fraction(int(parts[0], 16), int(parts[1], 16)),
    "u": Decimal,
}


def _text(content: Any) -> str:
    if type(content) is not str:
        raise TypeError("text expected")
    return content
