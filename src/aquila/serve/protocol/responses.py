"""The body of /v1/responses, and the chat request that it amounts to.

Source: OpenAI's Responses API, as its own clients (the SDK, codex) send it. Tools of types that only OpenAI's own
servers run are left out, since codex sends some unasked; the response says which (`ignored_tools`), and to be told to
call one is an error. Items of reasoning are left out, too: this model has none.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from aquila.errors import ConfigError
from aquila.serve.protocol.chat import ChatRequest
from aquila.serve.protocol.common import Count, Fields, Many
from aquila.serve.protocol.translated import chat_request_of


class ResponsesRequest(Fields):
    """Answer an input: a text, or items of a conversation."""

    model: str | None = None
    input: str | list[dict[str, Any]] = Field(min_length=1)
    instructions: str | None = None
    max_output_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: Many[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    stream: bool | None = None
    previous_response_id: str | None = None
    metadata: dict[str, Any] | None = None

    def chat_request(self) -> ChatRequest:
        """The same as a chat request.

        Raises:
            ConfigError: an item cannot be read, or an earlier response is referred to: none is kept.
        """
        if self.previous_response_id:
            raise ConfigError("previous_response_id: responses are not kept here; send the whole conversation as input")
        messages: list[dict[str, Any]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            messages.append({"role": "user", "content": self.input})
        else:
            for index, item in enumerate(self.input):
                _add_item(messages, item, f"input[{index}]")
        tools = [_tool(each) for each in self.function_tools]
        return chat_request_of(
            {
                "model": self.model,
                "messages": messages,
                "max_tokens": self.max_output_tokens,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "tools": tools or None,
                "tool_choice": self._choice(),
                "parallel_tool_calls": self.parallel_tool_calls,
                "response_format": self._format(),
            }
        )

    @property
    def function_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is told of."""
        return [each for each in self.tools or () if each.get("type") == "function"]

    @property
    def ignored_tools(self) -> list[str]:
        """Types of the others."""
        kinds = [str(each.get("type"))[:100] for each in self.tools or () if each.get("type") != "function"]
        return list(dict.fromkeys(kinds))

    def _choice(self) -> str | dict[str, Any] | None:
        if isinstance(self.tool_choice, dict) and self.tool_choice.get("type") == "function":
            return {"type": "function", "function": {"name": self.tool_choice.get("name")}}
        if isinstance(self.tool_choice, dict) and self.tool_choice.get("type") in self.ignored_tools:
            kind = self.tool_choice["type"]
            raise ConfigError(f"tool_choice: tools of type {kind!r} are not run here; choose one of type 'function'")
        if not self.function_tools and self.tool_choice in ("auto", "none"):
            return None
        if self.tool_choice == "required" and self.ignored_tools and not self.function_tools:
            raise ConfigError(
                f"tool_choice: a call is required, and tools of type {', '.join(self.ignored_tools)} are not run here; "
                "send some of type 'function'"
            )
        return self.tool_choice

    def _format(self) -> dict[str, Any] | None:
        asked = (self.text or {}).get("format")
        if not isinstance(asked, Mapping) or asked.get("type") in (None, "text"):
            return None
        if asked["type"] == "json_schema":
            return {"type": "json_schema", "json_schema": {"name": asked.get("name"), "schema": asked.get("schema")}}
        return {"type": asked["type"]}


def _tool(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {key: entry.get(key) for key in ("name", "description", "parameters")}}


def _add_item(messages: list[dict[str, Any]], item: Mapping[str, Any], where: str) -> None:
    match item.get("type", "message"):
        case "message":
            messages.append({"role": item.get("role"), "content": _content(item.get("content"), where)})
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1]["tool_calls"] = [*messages[-1].get("tool_calls", ()), call]
        case "function_call_output":
            content = _content(item.get("output"), where)
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        case "reasoning":
            return
        case kind:
            raise ConfigError(f"{where}: items of type {kind!r} cannot be read; send messages and function calls")


def _content(content: Any, where: str) -> Any:
    """Text parts are called `input_text` and `output_text` here; others keep their type, and are refused by it."""
    if not isinstance(content, list):
        return content
    parts = []
    for number, part in enumerate(content):
        if not isinstance(part, Mapping):
            raise ConfigError(f"{where}.content[{number}]: must be an object with a type")
        text = part.get("text") if part.get("type") in ("input_text", "output_text", "text") else part.get("refusal")
        if not isinstance(text, str):
            raise ConfigError(f"{where}.content[{number}]: a part of type {part.get('type')!r} cannot be read")
        parts.append({"type": "text", "text": text})
    return parts
