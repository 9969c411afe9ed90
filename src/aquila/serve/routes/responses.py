"""/v1/responses: the same answers in the shape of OpenAI's Responses API, which codex speaks."""

import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from aquila.chat.stream_parser import Arguments, CallBegin, CallEnd, Text
from aquila.errors import AquilaError
from aquila.serve.conversation import Chat, ChatEvent, Finish, prepare_chat
from aquila.serve.disconnect import unless_client_leaves
from aquila.serve.errors import as_serve_error
from aquila.serve.protocol.responses import ResponsesRequest
from aquila.serve.server import Server, get_server
from aquila.serve.sse import event, event_stream

router = APIRouter()


@router.post("/v1/responses", response_model=None)
async def responses(
    body: ResponsesRequest, http: HttpRequest, server: Annotated[Server, Depends(get_server)]
) -> Response:
    """Answer an input. Nothing is stored."""
    chat = await run_in_threadpool(prepare_chat, server, body.chat_request())  # a long prompt takes its time
    answer = _Answer(body, chat)
    if body.stream:
        return await event_stream(http, answer.stream(), ping_seconds=server.settings.ping_seconds, done=b"")
    return JSONResponse(await unless_client_leaves(http, answer.complete()))


class _Answer:
    """A response in the making: events of the chat in, events of the response out."""

    def __init__(self, body: ResponsesRequest, chat: Chat):
        self._body = body
        self._chat = chat
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._output: list[dict[str, Any]] = []
        self._number = 0
        self._open = False  # the last item of the output still grows

    async def complete(self) -> dict[str, Any]:
        reason = ""
        async with aclosing(self._chat.events()) as events:
            async for _, each in events:
                for _ in self._hear(each):
                    pass
                reason = each.reason if isinstance(each, Finish) else reason
        return self._response("incomplete" if reason == "length" else "completed")

    async def stream(self) -> AsyncGenerator[bytes]:
        begun = False
        try:
            async with aclosing(self._chat.events()) as events:
                async for _, each in events:
                    if not begun:
                        begun = True
                        for kind in ("response.created", "response.in_progress"):
                            yield self._event(kind, response=self._response("in_progress"))
                    for encoded in self._hear(each):
                        yield encoded
                    if isinstance(each, Finish):
                        status = "incomplete" if each.reason == "length" else "completed"
                        yield self._event(f"response.{status}", response=self._response(status))
        except AquilaError as error:
            if not begun:
                raise
            said = as_serve_error(error)
            failed = {"code": said.code or "server_error", "message": str(said)}
            yield self._event("response.failed", response={**self._response("failed"), "error": failed})

    def _hear(self, each: ChatEvent) -> Iterator[bytes]:
        match each:
            case Text():
                if not self._open or self._output[-1]["type"] != "message":
                    yield from self._begin_message()
                self._output[-1]["content"][0]["text"] += each.text
                yield self._about_item("output_text.delta", content_index=0, delta=each.text, logprobs=[])
            case CallBegin():
                yield from self._end_item()
                yield from self._begin_call(each)
            case Arguments():
                self._output[-1]["arguments"] += each.fragment
                yield self._about_item("function_call_arguments.delta", delta=each.fragment)
            case CallEnd() | Finish():
                yield from self._end_item()

    def _begin_message(self) -> Iterator[bytes]:
        yield from self._end_item()
        item = {"type": "message", "id": f"msg_{uuid.uuid4().hex}", "status": "in_progress", "role": "assistant"}
        yield self._add({**item, "content": []})
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._output[-1]["content"].append(part)
        yield self._about_item("content_part.added", content_index=0, part=dict(part))

    def _begin_call(self, call: CallBegin) -> Iterator[bytes]:
        item = {"type": "function_call", "id": f"fc_{uuid.uuid4().hex}", "status": "in_progress"}
        yield self._add({**item, "call_id": call.id, "name": call.name, "arguments": ""})

    def _add(self, item: dict[str, Any]) -> bytes:
        self._output.append(item)
        self._open = True
        return self._event("response.output_item.added", output_index=len(self._output) - 1, item=item)

    def _end_item(self) -> Iterator[bytes]:
        if not self._open:
            return
        self._open = False
        item = self._output[-1]
        if item["type"] == "message":
            part = item["content"][0]
            yield self._about_item("output_text.done", content_index=0, text=part["text"], logprobs=[])
            yield self._about_item("content_part.done", content_index=0, part=part)
        else:
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield self._about_item("function_call_arguments.done", **done)
        item["status"] = "completed"
        yield self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)

    def _about_item(self, kind: str, **fields: Any) -> bytes:
        place = {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1}
        return self._event(f"response.{kind}", **place, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event({"type": kind, "sequence_number": number, **fields}, name=kind)

    def _response(self, status: str) -> dict[str, Any]:
        body, params = self._body, self._chat.request.params
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self._chat.model_name,
            "output": self._output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": params.temperature,
            "text": body.text or {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.function_tools,
            **({"ignored_tools": body.ignored_tools} if body.ignored_tools else {}),
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": None if status == "in_progress" else self._usage(),
        }

    def _usage(self) -> dict[str, Any]:
        usage = self._chat.tally.usage()
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }
