"""The body of /v1/chat/completions."""

from typing import Any, Literal

from pydantic import Field

from aquila.serve.protocol.common import Fields, Many, SamplingFields, StreamOptions


class ChatMessage(Fields):
    """A message; `content` is text, or a list of text parts."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Many[dict[str, Any] | str] | None = None
    name: str | None = None
    tool_calls: Many[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class ChatRequest(SamplingFields):
    """Answer a conversation.

    Where the last message is the assistant's, the answer goes on from it. `max_tokens` (or `max_completion_tokens`) is
    cut to what the context has room for, which is also what holds without it.
    """

    model: str | None = None
    messages: Many[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: Many[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
