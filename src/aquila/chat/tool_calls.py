"""Tools in a conversation: OpenAI's messages on one side, what a model reads and writes on the other.

    dialect = dialect_for(template_name, tools)
    messages = dialect.messages(chat_messages)      # -> Message, for a template's `encode`
    parser = dialect.parser()                       # text in, Text / CallBegin / Arguments / CallEnd out
    grammar = dialect.grammar("required")           # for SamplingParams

Two dialects: "aquila", the special instruction specification, for the templates of the Aquila family; "hermes", JSON in
`<tool_call>`, for checkpoints that bring their own template.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from aquila.chat import hermes, instructions, tool_prompt
from aquila.chat.instructions import Call, Turn
from aquila.chat.stream_parser import Arguments, CallBegin, Event, InstructionParser, Text, new_call_id
from aquila.chat.tool_grammar import aquila_grammar, hermes_grammar
from aquila.chat.toolspec import ToolSpec, ToolTable, compact_json
from aquila.config import suggest
from aquila.errors import ConfigError
from aquila.generate.grammar import Grammar
from aquila.tokenizer.messages import Message
from aquila.tokenizer.templates import TEMPLATES

ToolChoice = str | Mapping[str, Any] | None
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


@runtime_checkable  # the type checks of the tests ask it
class Parser(Protocol):
    """Takes a turn in pieces. Joined events do not depend on the pieces."""

    def feed(self, text: str) -> list[Event]: ...

    def finish(self) -> list[Event]: ...


@runtime_checkable
class Dialect(Protocol):
    """How one family of models writes calls.

    Attributes:
        name: "aquila" or "hermes".
        table: the tools.
    """

    name: str
    table: ToolTable

    def system_text(self, language: str = "en") -> str:
        """The tools, for the system message; empty without tools."""
        ...

    def parser(self, *, new_id: Callable[[], str] = new_call_id) -> Parser:
        """A parser for one turn."""
        ...

    def render_call(self, content: str, calls: Sequence[Call]) -> str:
        """A turn of the history as the model would have written it."""
        ...

    def render_result(self, name: str, content: str) -> str:
        """A tool's result as the model reads it."""
        ...

    def user_text(self, content: str) -> str:
        """What a user said, so that it cannot pass for a result."""
        ...

    def grammar(self, choice: ToolChoice, *, parallel: bool = True) -> Grammar | None:
        """The grammar of `tool_choice`: None for "auto" and "none".

        Raises:
            ConfigError: no such choice, or no such tool.
        """
        ...

    def messages(self, chat: Sequence[Mapping[str, Any]]) -> list[Message]:
        """See `to_messages`."""
        ...


class AquilaDialect:
    """The special instruction specification: `#name#` on a line, the body behind it."""

    name = "aquila"

    def __init__(self, table: ToolTable) -> None:
        self.table = table

    def system_text(self, language: str = "en") -> str:
        return tool_prompt.aquila_system(self.table, language) if self.table else ""

    def parser(self, *, new_id: Callable[[], str] = new_call_id) -> Parser:
        return InstructionParser(self.table, new_id=new_id)

    def render_call(self, content: str, calls: Sequence[Call]) -> str:
        return instructions.render(Turn(content, tuple(calls)), self.table)

    def render_result(self, name: str, content: str) -> str:
        return tool_prompt.aquila_result(self.table, name, content)

    def user_text(self, content: str) -> str:
        return instructions.escape(content)[0]

    def grammar(self, choice: ToolChoice, *, parallel: bool = True) -> Grammar | None:
        tools, single = chosen_tools(self.table, choice)
        return aquila_grammar(self.table, tools, parallel=parallel and not single) if tools else None

    def messages(self, chat: Sequence[Mapping[str, Any]]) -> list[Message]:
        return to_messages(self, chat)


class HermesDialect:
    """JSON between `<tool_call>` tags."""

    name = "hermes"

    def __init__(self, table: ToolTable) -> None:
        self.table = table

    def system_text(self, language: str = "en") -> str:
        return tool_prompt.hermes_system(self.table, language) if self.table else ""

    def parser(self, *, new_id: Callable[[], str] = new_call_id) -> Parser:
        return hermes.HermesParser(self.table, new_id=new_id)

    def render_call(self, content: str, calls: Sequence[Call]) -> str:
        return hermes.render(Turn(content, tuple(calls)), self.table)

    def render_result(self, name: str, content: str) -> str:
        return tool_prompt.hermes_result(content)

    def user_text(self, content: str) -> str:
        return tool_prompt.hermes_user(content)

    def grammar(self, choice: ToolChoice, *, parallel: bool = True) -> Grammar | None:
        tools, single = chosen_tools(self.table, choice)
        return hermes_grammar(tools, parallel=parallel and not single) if tools else None

    def messages(self, chat: Sequence[Mapping[str, Any]]) -> list[Message]:
        return to_messages(self, chat)


def dialect_for(template_name: str | None, tools: Iterable[ToolSpec] | ToolTable) -> Dialect:
    """The dialect of a model with this chat template. `ConfigError` when two tools have one name.

    Args:
        template_name: name of the template that the conversation is rendered with; None counts as the family's own.
        tools: that may be called in this conversation.
    """
    table = tools if isinstance(tools, ToolTable) else ToolTable(tools)
    own = template_name is None or template_name in TEMPLATES
    return AquilaDialect(table) if own else HermesDialect(table)


def chosen_tools(table: ToolTable, choice: ToolChoice) -> tuple[tuple[ToolSpec, ...], bool]:
    """The tools one of which must be called (none: nothing is forced), and whether it is to be a single call."""
    match choice:
        case None | "auto" | "none":
            return (), False
        case "required":
            if not table:
                raise ConfigError("tool_choice: 'required' needs tools; send some, or leave tool_choice out")
            return table.tools, False
        case Mapping():
            function = choice.get("function", choice)
            name = function.get("name") if isinstance(function, Mapping) else None
            if not isinstance(name, str):
                raise ConfigError('tool_choice: an object must be {"type": "function", "function": {"name": NAME}}')
            if name not in table.by_name:
                raise ConfigError(f"tool_choice: no tool is called {name!r}{suggest(name, table.by_name)}")
            return (table.by_name[name],), True
    raise ConfigError(f"tool_choice: {choice!r} is unknown; give 'none', 'auto', 'required' or a function's name")


def to_messages(dialect: Dialect, chat: Sequence[Mapping[str, Any]]) -> list[Message]:
    """OpenAI's messages as a conversation that templates take: system, then user and assistant in turn.

    System and developer messages become one, with the tools behind it; calls become the text that made them; results
    become a user's turn; neighbours of one role are joined.

    Raises:
        ConfigError: a message's role, content or call is not usable; names it as `messages[i]`.
    """
    system: list[str] = []
    turns: list[Message] = []
    names: dict[str, str] = {}  # call id -> tool
    for index, entry in enumerate(chat):
        where = f"messages[{index}]"
        content = text_of(entry.get("content"), where)
        match entry.get("role"):
            case "system" | "developer":
                system.append(content)
            case "user":
                _add(turns, Message("user", dialect.user_text(content) if dialect.table else content))
            case "assistant":
                calls = calls_of(entry.get("tool_calls") or (), where, names)
                text = dialect.render_call(content, calls) if calls or dialect.table else content
                _add(turns, Message("assistant", text))
            case "tool" | "function":
                name = entry.get("name") or names.get(str(entry.get("tool_call_id")), "")
                _add(turns, Message("user", dialect.render_result(name or "tool", content)))
            case role:
                raise ConfigError(f"{where}: role {role!r} is unknown; give system, developer, user, assistant or tool")
    chinese = any(_CHINESE.search(each) for each in (*system, *(turn.content for turn in turns[:1])))
    system.append(dialect.system_text("zh" if chinese else "en"))
    opening = "\n\n".join(part for part in system if part)
    return [Message("system", opening), *turns] if opening else turns


def text_of(content: Any, where: str) -> str:
    """The text of a message's content: a string, nothing, or a list of text parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ConfigError(f"{where}.content: must be a string or a list of parts")
    texts: list[str] = []
    for number, part in enumerate(content):
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            raise ConfigError(
                f"{where}.content[{number}]: a part of type {kind!r} cannot be read; this model reads text only"
            )
        texts.append(text)
    return "\n".join(texts)


def calls_of(entries: Iterable[Any], where: str, names: dict[str, str]) -> list[Call]:
    """Calls of an assistant's message; notes their ids in `names`."""
    calls: list[Call] = []
    for number, entry in enumerate(entries):
        place = f"{where}.tool_calls[{number}]"
        function = entry.get("function") if isinstance(entry, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str):
            raise ConfigError(f'{place}: must be {{"id", "type": "function", "function": {{"name", "arguments"}}}}')
        calls.append(Call(name, _arguments(function.get("arguments"), place)))
        names[str(entry.get("id"))] = name
    return calls


def _arguments(given: Any, place: str) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        return given
    try:
        value = json.loads(given or "{}")
    except (TypeError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConfigError(f"{place}.function.arguments: must be a JSON object as a string")
    return value


def _add(turns: list[Message], message: Message) -> None:
    if turns and turns[-1].role == message.role:
        joined = "\n\n".join(part for part in (turns[-1].content, message.content) if part)
        turns[-1] = Message(message.role, joined)
    else:
        turns.append(message)


def to_openai_calls(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The `tool_calls` of a whole answer."""
    calls: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, CallBegin):
            function = {"name": event.name, "arguments": ""}
            calls.append({"id": event.id, "type": "function", "function": function})
        elif isinstance(event, Arguments):
            calls[event.index]["function"]["arguments"] += event.fragment
    return calls


def to_openai_delta(event: Event) -> dict[str, Any] | None:
    """The `delta` of a streamed chunk; None for an event that a client need not hear of."""
    match event:
        case Text():
            return {"content": event.text}
        case CallBegin():
            function = {"name": event.name, "arguments": ""}
            return {"tool_calls": [{"index": event.index, "id": event.id, "type": "function", "function": function}]}
        case Arguments():
            return {"tool_calls": [{"index": event.index, "function": {"arguments": event.fragment}}]}
    return None


def call_message(content: str, calls: Sequence[Call], ids: Sequence[str]) -> dict[str, Any]:
    """An assistant's message with calls, in OpenAI's shape."""
    entries = [
        {
            "id": each,
            "type": "function",
            "function": {"name": call.name, "arguments": compact_json(dict(call.arguments))},
        }
        for each, call in zip(ids, calls, strict=True)
    ]
    return {"role": "assistant", "content": content or None, "tool_calls": entries}
