"""The routes of FlagAI's `aquila_server.py` and the body of its VS Code guide, for clients that nobody changes now.

Their body is a JSON string that holds JSON; plain JSON is taken too. `logprobs` are probabilities, as there.
"""

import json
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import Field, TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool

from aquila.errors import ConfigError
from aquila.generate.request import Completion, Request
from aquila.generate.sampling import SamplingParams
from aquila.serve.disconnect import unless_client_leaves
from aquila.serve.logprobs import token_text
from aquila.serve.prompts import check_room, text_prompt
from aquila.serve.protocol.common import Fields, Many
from aquila.serve.server import Server, get_server
from aquila.tokenizer.messages import Message
from aquila.tokenizer.templates import stop_token_ids

router = APIRouter(include_in_schema=False)

STOPS = ("###", "[UNK]", "</s>")


class FlagaiRequest(Fields):
    """The body of /func and /stream_func, with its defaults."""

    prompt: str
    max_new_tokens: int = Field(default=256, ge=1)
    top_p: float = 0.95
    top_k_per_token: int = Field(default=1000, ge=0)
    temperature: float = 0.9
    seed: int = Field(default=1234, ge=0)
    sft: bool = False
    history: Many[tuple[str, str]] = Field(default_factory=list)  # (role, text): ASSISTANT, or the human


class EditorRequest(Fields):
    """The body that the patched editor extension sends."""

    context: str
    temperature: float = 0.8
    top_k: int = Field(default=0, ge=0)
    top_p: float = 0.95
    max_seq_len: int = Field(default=50, ge=1)
    end_tokens: Many[str] = Field(default_factory=list)


_BODY = TypeAdapter(EditorRequest | FlagaiRequest)


@router.post("/func", response_model=None)
async def func(
    body: Annotated[Any, Body()], http: HttpRequest, server: Annotated[Server, Depends(get_server)]
) -> Response:
    """Continue a text, or answer a conversation (`sft`); with `context`, what the editor extension asks for."""
    asked = _read(body)
    request = await run_in_threadpool(_request, server, asked)  # a long prompt takes its time
    (completion,) = await unless_client_leaves(http, server.worker.complete(request))
    if isinstance(asked, EditorRequest):
        return JSONResponse({"generated": completion.text})
    return JSONResponse(_answer(server, asked, completion))


@router.post("/stream_func", response_model=None)
async def stream_func(
    body: Annotated[Any, Body()], http: HttpRequest, server: Annotated[Server, Depends(get_server)]
) -> Response:
    """The same as plain text, as it comes."""
    request = await run_in_threadpool(_request, server, _read(body))
    texts = _texts(server, request)
    first = await unless_client_leaves(http, _first(texts))  # a full queue is a status, not a stream that is cut
    return StreamingResponse(_joined(first, texts), media_type="text/plain; charset=utf-8")


def _read(body: Any) -> FlagaiRequest | EditorRequest:
    try:
        value = json.loads(body) if isinstance(body, str) else body
    except (ValueError, RecursionError):
        raise ConfigError("the body is a string, and what it holds is not JSON") from None
    try:
        return _BODY.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc'][1:])) or 'the body'}: {first['msg']}") from None


def _request(server: Server, asked: FlagaiRequest | EditorRequest) -> Request:
    if isinstance(asked, EditorRequest):
        params = SamplingParams(
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            max_new_tokens=asked.max_seq_len,
            stop=tuple(stop for stop in asked.end_tokens if stop),
        )
        ids = text_prompt(server.model, asked.context, parse_special=False)
    else:
        template = server.template
        stops = (*STOPS, *template.stop) if asked.sft else STOPS
        params = SamplingParams(
            temperature=asked.temperature,
            top_k=asked.top_k_per_token,
            top_p=asked.top_p,
            max_new_tokens=asked.max_new_tokens,
            seed=asked.seed,
            stop=tuple(dict.fromkeys(stops)),
            stop_token_ids=stop_token_ids(template, server.model.tokenizer) if asked.sft else (),
            logprobs=1,
        )
        ids = _conversation_ids(server, asked) if asked.sft else text_prompt(server.model, asked.prompt)
    check_room(server.model, ids, "prompt")
    return Request(tuple(ids), params)


def _conversation_ids(server: Server, asked: FlagaiRequest) -> list[int]:
    turns = [Message("assistant" if role == "ASSISTANT" else "user", text) for role, text in asked.history]
    return server.template.encode(server.model.tokenizer, [*turns, Message("user", asked.prompt)])


def _answer(server: Server, asked: FlagaiRequest, completion: Completion) -> dict[str, Any]:
    tokenizer, entries = server.model.tokenizer, completion.logprobs or []
    found = {
        "text": completion.text.removeprefix(" "),
        "tokens": [token_text(tokenizer, entry.token_id) for entry in entries],
        "logprobs": [math.exp(entry.logprob) for entry in entries],
        "top_logprobs_dicts": [
            {token_text(tokenizer, token_id): math.exp(logprob) for token_id, logprob in entry.top} for entry in entries
        ],
        "model_in": asked.prompt,
    }
    return {"completions": [found], "input_length": len(asked.prompt), "model_info": server.model_name}


async def _first(texts: AsyncGenerator[str]) -> str:
    return await anext(texts, "")


async def _joined(first: str, rest: AsyncGenerator[str]) -> AsyncGenerator[str]:
    async with aclosing(rest):
        yield first
        async for text in rest:
            yield text


async def _texts(server: Server, request: Request) -> AsyncGenerator[str]:
    surplus = " "
    async with aclosing(server.worker.stream(request)) as deltas:
        async for delta in deltas:
            if delta.text:
                yield delta.text.removeprefix(surplus)
                surplus = ""
