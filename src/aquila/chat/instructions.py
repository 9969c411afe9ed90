"""The special instruction specification, whole turns at a time: `parse` text, `render` a turn, `escape` a text.

    >>> parse("Let me draw it.\\n#text2image#\\na red bridge", table)
    Turn(content='Let me draw it.', calls=(Call(name='text2image', arguments={'prompt': 'a red bridge'}),))

`parse(render(turn, table), table) == turn` for every turn whose calls name tools of the table and parameters
that they have. The surface form is that
of the conversations published with AquilaChat; the grammar is in stream_parser.py, the bodies in call_body.py.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aquila.chat.stream_parser import (
    TAG_LINE,
    Arguments,
    CallBegin,
    CallEnd,
    Event,
    Fence,
    InstructionParser,
    Text,
)
from aquila.chat.toolspec import ToolTable, compact_json


@dataclass(frozen=True)
class Call:
    """A call of a tool."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """What an assistant said, and what it called after it."""

    content: str
    calls: tuple[Call, ...] = ()


def parse(text: str, table: ToolTable) -> Turn:
    """Reads a whole turn."""
    parser = InstructionParser(table)
    return turn_of([*parser.feed(text), *parser.finish()])


def render(turn: Turn, table: ToolTable) -> str:
    """Writes a turn as the model would. A body that cannot hold its arguments as plain text is written as JSON."""
    content, mark = escape(turn.content)
    parts = [content] if content else []
    if mark and turn.calls:
        parts.append(mark + "\\")
    parts += [f"#{table.tag(call.name)}#\n{body_text(call, table)}" for call in turn.calls]
    return "\n".join(parts)


def escape(text: str) -> tuple[str, str]:
    """The text with a backslash before lines that look like tags, and the mark of a code block left open in it."""
    fence = Fence()
    lines: list[str] = []
    for line in text.split("\n"):
        if fence.mark:
            lines.append(line + "\\" if fence.escapes(line) else line)
        else:
            lines.append("\\" + line if TAG_LINE.fullmatch(line) else line)
        fence.pass_line(line)
    return "\n".join(lines), fence.mark


def body_text(call: Call, table: ToolTable) -> str:
    """A call's body: plain where that reads back as the same arguments, else JSON."""
    tool = table.by_name.get(call.name)
    if tool is None or tool.form == "json":
        return compact_json(dict(call.arguments))
    known_first = sorted(call.arguments, key=lambda name: name not in tool.properties)  # by it JSON is told from text
    as_json = compact_json({name: call.arguments[name] for name in known_first})
    if known_first != [tool.argument]:
        return as_json
    value = call.arguments[tool.argument]
    items = [value] if tool.form == "text" else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        return as_json
    plain = escape("\n".join(items))[0]
    tag = f"#{table.tag(call.name)}#\n"
    back = parse(f"{tag}{plain}\n{tag}", table)  # with a tag behind it: an open code block would hide that
    first = back.calls[0]
    return plain if len(back.calls) == 2 and compact_json(dict(first.arguments)) == as_json else as_json


def turn_of(events: Iterable[Event]) -> Turn:
    """Events of one turn, put together."""
    content: list[str] = []
    names: list[str] = []
    fragments: list[str] = []
    for event in events:
        match event:
            case Text():
                content.append(event.text)
            case CallBegin():
                names.append(event.name)
                fragments.append("")
            case Arguments():
                fragments[event.index] += event.fragment
            case CallEnd():
                pass
    calls = [Call(name, json.loads(arguments)) for name, arguments in zip(names, fragments, strict=True)]
    return Turn("".join(content), tuple(calls))
