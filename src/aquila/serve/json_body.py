"""Whether the bytes of a request are JSON that the rest of the program can live with."""

import json
import re
from typing import Any

from aquila.serve.errors import ServeError

MAX_DEPTH = 100  # far beyond any request or schema in use, and far from what a parser's stack can bear
MAX_BRACKETS = 1_000_000  # a body of nothing else takes seconds to read, in which nobody is answered
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


def check_json(body: bytes) -> None:
    """`ServeError` 400 unless the body is JSON in UTF-8, not nested too deeply, without half surrogate pairs or NaN."""
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
        raise ServeError(400, f"the body has more than {MAX_BRACKETS} lists and objects; send less")
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
