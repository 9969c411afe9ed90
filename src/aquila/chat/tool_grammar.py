"""Grammars that force a call: what `tool_choice` "required", or the name of a tool, lets a model write.

Lark in llguidance's dialect, where `%json {...}` stands for the texts that a JSON schema allows. "auto" and "none" have
no grammar: text is free.
"""

import json
from collections.abc import Sequence

from aquila.chat.toolspec import ToolSpec, ToolTable
from aquila.generate.grammar import JSON_LAYOUT, Grammar

# A plain body: not empty, not `{` (that would be JSON), no line that could be a tag. A lines body has no empty lines.
_TEXT = r"/[^\s{#\\][^\n]*(\n+[^\n#\\][^\n]*)*/"
_LINES = r"/[^\s{#\\][^\n]*(\n[^\s#\\][^\n]*)*/"


def aquila_grammar(table: ToolTable, tools: Sequence[ToolSpec], *, parallel: bool) -> Grammar:
    """One call (or several, one after the other) in the special instruction specification."""
    rules = [_start(len(tools), parallel)]
    for index, tool in enumerate(tools):
        body = {"text": _TEXT, "lines": _LINES}.get(tool.form) or _json(tool)
        rules.append(f"call_{index}: {json.dumps(f'#{table.tag(tool.name)}#' + chr(10))} body_{index}")
        rules.append(f"body_{index}: {body}")
    return Grammar("lark", "\n".join(rules) + "\n")


def hermes_grammar(tools: Sequence[ToolSpec], *, parallel: bool) -> Grammar:
    """The same in `<tool_call>` JSON."""
    rules = [_start(len(tools), parallel)]
    for index, tool in enumerate(tools):
        head = f'<tool_call>\n{{"name": {json.dumps(tool.name)}, "arguments": '
        rules.append(f"call_{index}: {json.dumps(head)} body_{index} {json.dumps('}' + chr(10) + '</tool_call>')}")
        rules.append(f"body_{index}: {_json(tool)}")
    return Grammar("lark", "\n".join(rules) + "\n")


def _start(num_tools: int, parallel: bool) -> str:
    call = "call: " + " | ".join(f"call_{index}" for index in range(num_tools))
    return ('start: call ("\\n" call)*\n' if parallel else "start: call\n") + call


def _json(tool: ToolSpec) -> str:
    schema = {"type": "object", "properties": {}, "additionalProperties": False, **tool.parameters}
    return "%json " + json.dumps({**schema, "x-guidance": JSON_LAYOUT}, ensure_ascii=False)
