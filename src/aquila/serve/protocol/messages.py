"""The body of /v1/messages, and the chat request that it amounts to.

Source: Anthropic's Messages API, as its own clients (the SDK, Claude Code) send it. Blocks of thinking are left out:
this model has none.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from aquila.errors import ConfigError
from aquila.serve.protocol.chat import ChatRequest
from aquila.serve.protocol.common import Count, Fields, Many
from aquila.serve.protocol.translated import chat_request_of

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class CountTokensRequest(Fields):
    """How many tokens a conversation has."""

    model: str | None = None
    messages: list[dict[str, Any]] = Field(min_length=1)
    system: str | Many[dict[str, Any]] | None = None
    tools: Many[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None

    def chat_request(self, **options: Any) -> ChatRequest:
        """The same as a chat request. `ConfigError` names the block that cannot be read."""
        messages: list[dict[str, Any]] = []
        if self.system:
            messages.append({"role": "system", "content": _text(self.system, "system")})
        for index, message in enumerate(self.messages):
            messages += _chat_messages(message, f"messages[{index}]")
        tools = [_tool(each) for each in self.tools or () if "input_schema" in each]
        choice = self.tool_choice or {}
        return chat_request_of(
            {
                "model": self.model,
                "messages": messages,
                "tools": tools or None,
                "tool_choice": _choice(choice) if tools else None,
                "parallel_tool_calls": not choice.get("disable_parallel_tool_use", False),
                **options,
            }
        )


class MessagesRequest(CountTokensRequest):
    """Answer a conversation."""

    max_tokens: Count
    stop_sequences: Many[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None

    def to_chat(self) -> ChatRequest:
        return self.chat_request(
            max_tokens=self.max_tokens,
            stop=self.stop_sequences,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
        )


def _choice(choice: Mapping[str, Any]) -> str | dict[str, Any] | None:
    kind = choice.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}
    if kind is not None and kind not in _CHOICES:
        raise ConfigError(f"tool_choice: type {kind!r} is unknown; give auto, any, tool or none")
    return _CHOICES.get(kind or "auto")


def _tool(entry: Mapping[str, Any]) -> dict[str, Any]:
    function = {
        "name": entry.get("name"),
        "description": entry.get("description"),
        "parameters": entry["input_schema"],
    }
    return {"type": "function", "function": function}


def _chat_messages(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """One message: what was said and called, and results as messages of their own before it."""
    role, content = message.get("role"), message.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise ConfigError(f"{where}.content: must be a string or a list of blocks")
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, block in enumerate(content):
        place = f"{where}.content[{number}]"
        match block.get("type") if isinstance(block, Mapping) else None:
            case "text":
                texts.append(_text([block], place))
            case "tool_use":
                function = {"name": block.get("name"), "arguments": json.dumps(block.get("input") or {})}
                calls.append({"id": block.get("id"), "type": "function", "function": function})
            case "tool_result":
                text = _text(block.get("content") or "", place)
                text = f"error: {text}" if block.get("is_error") else text
                results.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text})
            case "thinking" | "redacted_thinking":
                continue
            case kind:
                raise ConfigError(f"{place}: a block of type {kind!r} cannot be read; this model reads text only")
    if not texts and not calls:
        return results
    said: dict[str, Any] = {"role": role, "content": "\n".join(texts)}
    return [*results, {**said, "tool_calls": calls} if calls else said]


def _text(content: str | list[Any], where: str) -> str:
    if isinstance(content, str):
        return content
    texts = [each.get("text") if isinstance(each, Mapping) else None for each in content]
    if not all(isinstance(each, str) for each in texts):
        raise ConfigError(f"{where}: holds a block that is not text; this model reads text only")
    return "\n".join(str(each) for each in texts)
