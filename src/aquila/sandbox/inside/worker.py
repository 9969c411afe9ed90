"""A sample in Python that answers calls, or runs as a program, inside a process forked from the warden.

Calls come as JSON lines on stdin and are answered by JSON lines on stdout, one for one:

    (nothing)                         {"ready": true}      the source has run, and the function is there
                                      {"load": class, "text": message}        or not
    [arguments, keywords]             {"ok": value}        a list and a dict; values as values.py writes them
                                      {"err": class, "text": message}         the call raised
                                      {"odd": description}                    the answer is no plain value

The sample shares this interpreter and may tamper with anything in it. All it can gain is to answer something else.
"""

import io
import json
import os
import sys
import types
from typing import Any

# What many samples import, so that each does not read it from disk again.
import bisect  # noqa: F401  isort: skip
import copy  # noqa: F401  isort: skip
import datetime  # noqa: F401  isort: skip
import functools  # noqa: F401  isort: skip
import hashlib  # noqa: F401  isort: skip
import heapq  # noqa: F401  isort: skip
import itertools  # noqa: F401  isort: skip
import math  # noqa: F401  isort: skip
import operator  # noqa: F401  isort: skip
import random  # noqa: F401  isort: skip
import re  # noqa: F401  isort: skip
import statistics  # noqa: F401  isort: skip
import string  # noqa: F401  isort: skip
import typing  # noqa: F401  isort: skip

from aquila.sandbox.inside import values

_MAX_TEXT = 300


def answer_calls(source: str, entry_point: str) -> None:
    """Loads `source` and answers calls of its function until stdin ends."""
    requests, replies = _take_channel()
    try:
        function = _load(source)[entry_point]
    except BaseException as error:  # noqa: BLE001  whatever a sample raises is its answer
        _reply(replies, _describe("load", error))
        return
    _reply(replies, _line({"ready": True}))
    for line in requests:
        arguments, keywords = values.from_json(line)
        try:
            answer = f'{{"ok": {values.to_json(function(*arguments, **keywords))}}}\n'.encode("ascii")
        except values.NotPlainError as error:
            answer = _line({"odd": str(error)})
        except BaseException as error:  # noqa: BLE001
            answer = _describe("err", error)
        _reply(replies, answer)


def run_program(source: str) -> None:
    """Runs `source` as the original harness does: within the process that then says how it went, by one reply.

    {"ok": null} or {"err": class, "text": message}. A sample can forge it; that is what the original harness is like.
    """
    _, replies = _take_channel()
    try:
        exec(compile(source, "program.py", "exec"), {})
    except BaseException as error:  # noqa: BLE001
        _reply(replies, _describe("err", error))
    else:
        _reply(replies, _line({"ok": None}))


def _take_channel() -> tuple[io.BufferedReader, int]:
    """Keeps stdin and stdout for calls; the sample's own reads find nothing, and its prints go to stderr."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    return requests, replies


def _load(source: str) -> dict[str, Any]:
    module = types.ModuleType("solution")  # a dataclass looks its module up
    sys.modules["solution"] = module
    exec(compile(source, "solution.py", "exec"), module.__dict__)
    return module.__dict__


def _describe(what: str, error: BaseException) -> bytes:
    try:
        text = str(error)[:_MAX_TEXT]
    except BaseException:  # noqa: BLE001  a message that raises
        text = ""
    return _line({what: type(error).__name__, "text": text})


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode("ascii") + b"\n"


def _reply(replies: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(replies, rest) :]
