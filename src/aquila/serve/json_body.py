"""Whether the bytes of a request are JSON that the rest of the program can live with.

A parser lets nobody else run meanwhile, in a thread or not: it holds the interpreter. How long goes by the number of
values, not of bytes (30 MB of text: 0.1 s; of small numbers: 20 s and 4 GB), so these are counted before, without those
that stand in texts.
"""

import json
import re
from typing import Any

import numpy as np

from aquila.serve.errors import ServeError

MAX_DEPTH = 100  # far beyond any request or schema in use, and far from what a parser's stack can bear
MAX_VALUES = 250_000  # a tenth of a second to read; two thousand prompts of a hundred token ids have fewer
_PIECE = 1 << 20  # bytes that are counted at once
_SEPARATORS = np.zeros(256, np.bool_)
_SEPARATORS[list(b",[{")] = True
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


def check_json(body: bytes) -> None:
    """`ServeError` 400 unless the body is JSON in UTF-8, not nested too deeply, without half surrogate pairs or NaN."""
    if _num_values(body) > MAX_VALUES:
        raise ServeError(400, f"the body has more than {MAX_VALUES} values in its lists and objects; send less at once")
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ServeError(400, f"the body is not UTF-8: byte {error.start}; send JSON in UTF-8") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise ServeError(400, f"the body is not JSON: {error}") from None
    _check_depth(value)
    if _HALF_PAIR.search(body):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ServeError(400, "the body has half a surrogate pair in a string; send valid Unicode") from None


def _num_values(body: bytes) -> int:
    """Commas and opening brackets outside texts; 0 where even with those in texts there are few."""
    if sum(map(body.count, (b",", b"[", b"{"))) <= MAX_VALUES:
        return 0
    plain = np.frombuffer(body.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    count, within = 0, False
    for begin in range(0, len(plain), _PIECE):  # others have their turns between pieces
        piece = plain[begin : begin + _PIECE]
        quoted = np.logical_xor.accumulate(piece == ord('"')) ^ within
        count += int(np.count_nonzero(_SEPARATORS[piece] & ~quoted))
        within = bool(quoted[-1])
    return count


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += each.values()
            elif isinstance(each, list):
                below += each
        level = [each for each in below if isinstance(each, dict | list)]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> ServeError:
    return ServeError(400, f"the body is nested more than {MAX_DEPTH} levels deep; flatten it")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
