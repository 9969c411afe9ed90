"""Conversations out of files: four ways that people write them, read into messages, or named by what is wrong.

    the seed's    {"conversations": [{"from": "human" | "gpt", "value": TEXT}], "instruction": TEXT}
    ShareGPT      the same, with a "system" text beside or a turn from "system"
    OpenAI        {"messages": [{"role": "system" | "user" | "assistant", "content": TEXT}]}
    Alpaca        {"instruction": TEXT, "input": TEXT, "output": TEXT}, perhaps with "system" and "history"

One JSON object a line (.jsonl, also .zst and .gz), or one JSON list of them (.json).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquila.data.readers import Unit, is_json_lines, parse_json, read_lines, surrogate_fault
from aquila.errors import ConfigError
from aquila.tokenizer.messages import Message, Role

_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}


@dataclass(frozen=True)
class Conversation:
    """Messages that take turns: system (optional), user, assistant, ... `where` names file and line."""

    messages: tuple[Message, ...]
    where: str
    form: str  # seed, sharegpt, openai or alpaca


@dataclass(frozen=True)
class Problem:
    """A record that is no conversation: where it is, the field that is wrong (perhaps ""), and how."""

    where: str
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.field}: {self.reason}" if self.field else f"{self.where}: {self.reason}"


def conversation_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and those of the folders that hold JSON, sorted by name.

    Raises:
        ConfigError: a path that does not exist, or a folder without such a file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_file():
            files.append(path)
            continue
        if not path.is_dir():
            raise ConfigError(f"{path}: no such file or folder; give files of conversations (.jsonl, .json)")
        found = sorted(each for each in path.rglob("*") if each.is_file() and _is_json(each))
        if not found:
            raise ConfigError(f"{path}: this folder has no .jsonl or .json file")
        files += found
    return files


def read_conversations(path: Path) -> Iterator[Conversation | Problem]:
    """Every record of a file, in order; blank lines are passed over."""
    if path.suffix == ".json":
        yield from _read_list(path)
        return
    for number, line in enumerate(read_lines(Unit("lines", (path,))), start=1):
        if line.strip():
            record, reason = parse_json(line)
            where = f"{path}, line {number}"
            yield Problem(where, "", reason) if reason else parse_conversation(record, where)


def parse_conversation(record: Any, where: str) -> Conversation | Problem:
    """One record in any of the forms."""
    try:
        form, messages = _parse(record)
        _check_turns(messages)
    except _FieldError as error:
        return Problem(where, error.field, error.reason)
    return Conversation(tuple(message for _, message in messages), where, form)


class _FieldError(Exception):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field, self.reason = field, reason


_Fields = list[tuple[str, Message]]  # each message with the field it came from


def _parse(record: Any) -> tuple[str, _Fields]:
    if not isinstance(record, dict):
        raise _FieldError("", f"a JSON {type(record).__name__}, expected an object")
    if "messages" in record:
        return "openai", _turns(record, "messages", "role", "content")
    if "conversations" in record:
        form = "seed" if "instruction" in record else "sharegpt"
        opening = [_system(record, name) for name in ("instruction", "system") if record.get(name)]
        return form, opening + _turns(record, "conversations", "from", "value")
    if "instruction" in record and "output" in record:
        return "alpaca", _alpaca(record)
    names = ", ".join(map(_printable, record)) or "nothing"
    raise _FieldError("", f"has {names}; expected messages, conversations, or instruction and output")


def _turns(record: Mapping[str, Any], name: str, role_key: str, text_key: str) -> _Fields:
    turns = record[name]
    if not isinstance(turns, list) or not turns:
        raise _FieldError(name, f"expected a list of turns, got {_shown(turns)}")
    return [_turn(turn, f"{name}[{index}]", role_key, text_key) for index, turn in enumerate(turns)]


def _turn(turn: Any, field: str, role_key: str, text_key: str) -> tuple[str, Message]:
    if not isinstance(turn, dict):
        raise _FieldError(field, f"expected an object, got {_shown(turn)}")
    for key in (role_key, text_key):
        if key not in turn:
            raise _FieldError(f"{field}.{key}", "is missing")
    word = turn[role_key]
    role = _ROLES.get(word.lower()) if isinstance(word, str) else None
    if role is None:
        raise _FieldError(f"{field}.{role_key}", f"{_shown(word)} is none of {', '.join(_ROLES)}")
    if turn.get("tool_calls") or turn.get("function_call"):
        raise _FieldError(f"{field}.tool_calls", "calls of tools are not supported; write them into the text")
    if turn.get("weight") == 0:
        raise _FieldError(f"{field}.weight", "a turn that is not learned is not supported; leave the record out")
    text = turn[text_key]
    if isinstance(text, list):  # OpenAI's parts
        text = _joined_parts(text, f"{field}.{text_key}")
    return field, Message(role, _text(text, f"{field}.{text_key}"))


def _joined_parts(parts: list[Any], field: str) -> str:
    for index, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise _FieldError(f"{field}[{index}]", f"expected a part of type text, got {_shown(part)}")
    return "".join(_text(part.get("text"), f"{field}[{index}].text") for index, part in enumerate(parts))


def _alpaca(record: Mapping[str, Any]) -> _Fields:
    messages = [_system(record, "system")] if record.get("system") else []
    history = record.get("history") or []
    if not isinstance(history, list):
        raise _FieldError("history", f"expected a list of pairs, got {_shown(history)}")
    for index, pair in enumerate(history):
        field = f"history[{index}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise _FieldError(field, f"expected a question and an answer, got {_shown(pair)}")
        messages.append((field, Message("user", _text(pair[0], f"{field}[0]"))))
        messages.append((field, Message("assistant", _text(pair[1], f"{field}[1]"))))
    question = _text(record["instruction"], "instruction")
    if record.get("input"):
        question += "\n" + _text(record["input"], "input")
    answer = _text(record["output"], "output")
    return [*messages, ("instruction", Message("user", question)), ("output", Message("assistant", answer))]


def _system(record: Mapping[str, Any], name: str) -> tuple[str, Message]:
    return name, Message("system", _text(record[name], name))


def _check_turns(messages: _Fields) -> None:
    start = 1 if messages[0][1].role == "system" else 0
    for index, (field, message) in enumerate(messages[start:]):
        expected = "assistant" if index % 2 else "user"
        if message.role == "system":
            raise _FieldError(field, "a second system message, or one that is not first")
        if message.role != expected:
            raise _FieldError(field, f"the {message.role} speaks, but it is the {expected}'s turn; the user begins")
        if not message.content:
            raise _FieldError(field, f"the {message.role}'s message is empty")
    if len(messages) - start < 2:
        raise _FieldError("", "the assistant never speaks: there is nothing to learn")


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _FieldError(field, f"expected a text, got {_shown(value)}")
    if reason := surrogate_fault(value):
        raise _FieldError(field, reason)
    return value


def _shown(value: Any) -> str:
    return _printable(json.dumps(value, ensure_ascii=False))


def _printable(text: str) -> str:
    """Its beginning, with halves of surrogate pairs, which no terminal takes, written out."""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= 40 else f"{text[:37]}..."


def _is_json(path: Path) -> bool:
    return is_json_lines(path) or path.suffix == ".json"


def _read_list(path: Path) -> Iterator[Conversation | Problem]:
    records, reason = parse_json(path.read_bytes())
    if not reason and not isinstance(records, list):
        reason = f"holds a JSON {type(records).__name__}; expected a list of conversations, or a .jsonl file"
    if reason:
        yield Problem(str(path), "", reason)
        return
    for number, record in enumerate(records, start=1):
        yield parse_conversation(record, f"{path}, item {number}")
