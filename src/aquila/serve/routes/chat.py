"""/v1/chat/completions: answer a conversation."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from aquila.chat.stream_parser import Event, Text
from aquila.chat.tool_calls import to_openai_calls, to_openai_delta
from aquila.generate.sampling import TokenLogprob
from aquila.serve.conversation import Chat, Finish, Scores, prepare_chat, stream_usage
from aquila.serve.disconnect import unless_client_leaves
from aquila.serve.logprobs import chat_logprobs
from aquila.serve.protocol.chat import ChatRequest
from aquila.serve.server import Server, get_server
from aquila.serve.sse import event, event_stream

router = APIRouter()


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(
    body: ChatRequest, http: HttpRequest, server: Annotated[Server, Depends(get_server)]
) -> Response:
    """Answer a conversation."""
    chat = await run_in_threadpool(prepare_chat, server, body)  # a long prompt takes its time
    if body.stream:
        return await event_stream(http, _stream(chat), ping_seconds=server.settings.ping_seconds)
    return JSONResponse(await unless_client_leaves(http, _complete(chat)))


async def _complete(chat: Chat) -> dict[str, Any]:
    count = chat.request.params.n
    found: list[list[Event]] = [[] for _ in range(count)]
    scores: list[list[TokenLogprob]] = [[] for _ in range(count)]
    reasons = [""] * count
    async with aclosing(chat.events()) as events:
        async for index, each in events:
            match each:
                case Scores():
                    scores[index] += each.entries
                case Finish():
                    reasons[index] = each.reason
                case _:
                    found[index].append(each)
    choices = [
        {
            "index": index,
            "message": _message(found[index]),
            "logprobs": chat_logprobs(chat.server.model.tokenizer, scores[index]) if chat.body.logprobs else None,
            "finish_reason": reasons[index],
        }
        for index in range(count)
    ]
    return {
        **_head(chat, "chat.completion"),
        "choices": choices,
        "usage": chat.tally.usage(),
        "timings": chat.tally.timings(),
    }


def _message(events: list[Event]) -> dict[str, Any]:
    text = "".join(each.text for each in events if isinstance(each, Text))
    calls = to_openai_calls(events)
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
    if calls:
        message["tool_calls"] = calls
    return message


async def _stream(chat: Chat) -> AsyncGenerator[bytes]:
    head = _head(chat, "chat.completion.chunk")
    begun: set[int] = set()
    held: dict[int, list[TokenLogprob]] = {}  # scores of tokens whose text is still to come

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        scores = held.pop(index, None)
        logprobs = chat_logprobs(chat.server.model.tokenizer, scores) if scores else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return event({**head, "choices": [choice]})

    async with aclosing(chat.events()) as events:
        async for index, each in events:
            if index not in begun:
                begun.add(index)
                yield chunk(index, {"role": "assistant", "content": ""})
            match each:
                case Scores():
                    held.setdefault(index, []).extend(each.entries)
                case Finish():
                    yield chunk(index, {}, each.reason)
                case _:
                    delta = to_openai_delta(each)
                    if delta is not None:
                        yield chunk(index, delta)
    if (usage := stream_usage(chat)) is not None:
        yield event({**head, "choices": [], **usage})


def _head(chat: Chat, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": chat.model_name,
    }
