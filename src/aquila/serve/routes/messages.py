"""/v1/messages: the same answers in the shape of Anthropic's Messages API, which Claude Code speaks."""

import json
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from aquila.chat.stream_parser import Arguments, CallBegin, CallEnd, Text
from aquila.chat.tool_calls import dialect_for
from aquila.chat.toolspec import tool_from_openai
from aquila.errors import AquilaError
from aquila.serve.conversation import Chat, ChatEvent, Finish, prepare_chat
from aquila.serve.disconnect import unless_client_leaves
from aquila.serve.errors import as_serve_error
from aquila.serve.protocol.messages import CountTokensRequest, MessagesRequest
from aquila.serve.server import Server, get_server
from aquila.serve.sse import event, event_stream

router = APIRouter()
REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


@router.post("/v1/messages", response_model=None)
async def messages(
    body: MessagesRequest, http: HttpRequest, server: Annotated[Server, Depends(get_server)]
) -> Response:
    """Answer a conversation."""
    try:
        answer = _Answer(await run_in_threadpool(prepare_chat, server, body.to_chat()))  # a long prompt takes its time
        if body.stream:
            return await event_stream(http, answer.stream(), ping_seconds=server.settings.ping_seconds, done=b"")
        return JSONResponse(await unless_client_leaves(http, answer.complete()))
    except AquilaError as error:
        said = as_serve_error(error)
        return JSONResponse(_error_body(error), said.status, said.headers)


@router.post("/v1/messages/count_tokens", response_model=None)
def count_tokens(body: CountTokensRequest, server: Annotated[Server, Depends(get_server)]) -> Response:
    """How many tokens the model would read."""
    try:
        chat = body.chat_request()
        server.adapter_for(chat.model)
        tools = [tool_from_openai(entry, f"tools[{index}]") for index, entry in enumerate(chat.tools or ())]
        conversation = dialect_for(server.template.name, tools).messages([each.model_dump() for each in chat.messages])
        answers = bool(conversation) and conversation[-1].role != "assistant"
        ids = server.template.encode(server.model.tokenizer, conversation, add_generation_prompt=answers)
        return JSONResponse({"input_tokens": len(ids)})
    except AquilaError as error:
        said = as_serve_error(error)
        return JSONResponse(_error_body(error), said.status, said.headers)


def _error_body(error: Exception) -> dict[str, Any]:
    """Anthropic's shape, which has OpenAI's `error.message` too."""
    said = as_serve_error(error)
    return {"type": "error", "error": {"type": _ERRORS.get(said.status, "api_error"), "message": str(said)}}


class _Answer:
    """A message in the making: events of the chat in, events of the message out."""

    def __init__(self, chat: Chat):
        self._chat = chat
        self._id = f"msg_{uuid.uuid4().hex}"
        self._blocks: list[dict[str, Any]] = []
        self._arguments: list[str] = []  # of the block that grows, if it is a call
        self._open = False

    async def complete(self) -> dict[str, Any]:
        reason = "stop"
        async with aclosing(self._chat.events()) as events:
            async for _, each in events:
                for _ in self._hear(each):
                    pass
                reason = each.reason if isinstance(each, Finish) else reason
        content = self._blocks or [{"type": "text", "text": ""}]
        return {**self._message(), "content": content, "stop_reason": REASONS[reason], "usage": self._usage()}

    async def stream(self) -> AsyncGenerator[bytes]:
        begun = False
        try:
            async with aclosing(self._chat.events()) as events:
                async for _, each in events:
                    if not begun:
                        begun = True
                        yield _event("message_start", message={**self._message(), "usage": self._usage()})
                    for encoded in self._hear(each):
                        yield encoded
                    if isinstance(each, Finish):
                        delta = {"stop_reason": REASONS[each.reason], "stop_sequence": None}
                        yield _event("message_delta", delta=delta, usage=self._usage())
                        yield _event("message_stop")
        except AquilaError as error:
            if not begun:
                raise
            yield event(_error_body(error), name="error")

    def _hear(self, each: ChatEvent) -> Iterator[bytes]:
        match each:
            case Text():
                if not self._open or self._blocks[-1]["type"] != "text":
                    yield from self._begin({"type": "text", "text": ""})
                self._blocks[-1]["text"] += each.text
                yield self._delta({"type": "text_delta", "text": each.text})
            case CallBegin():
                yield from self._begin({"type": "tool_use", "id": each.id, "name": each.name, "input": {}})
            case Arguments():
                self._arguments.append(each.fragment)
                yield self._delta({"type": "input_json_delta", "partial_json": each.fragment})
            case CallEnd() | Finish():
                yield from self._end()

    def _begin(self, block: dict[str, Any]) -> Iterator[bytes]:
        yield from self._end()
        self._open = True
        yield _event("content_block_start", index=len(self._blocks), content_block=dict(block))
        self._blocks.append(block)

    def _end(self) -> Iterator[bytes]:
        if not self._open:
            return
        self._open = False
        if self._arguments:
            self._blocks[-1]["input"] = json.loads("".join(self._arguments))
            self._arguments.clear()
        yield _event("content_block_stop", index=len(self._blocks) - 1)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=len(self._blocks) - 1, delta=delta)

    def _message(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._chat.model_name,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _usage(self) -> dict[str, int]:
        """Tokens that were in the cache are counted apart."""
        usage = self._chat.tally.usage()
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return {
            "input_tokens": usage["prompt_tokens"] - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": usage["completion_tokens"],
        }


def _event(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, name=kind)
