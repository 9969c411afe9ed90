"""/v1/completions: continue texts or token ids, or fill in between two texts."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from aquila.errors import ConfigError
from aquila.generate.infill import infill_request
from aquila.generate.request import Delta, Request
from aquila.generate.sampling import TokenLogprob
from aquila.serve.disconnect import unless_client_leaves
from aquila.serve.infilling import InfillJob
from aquila.serve.logprobs import CompletionLogprobs, join
from aquila.serve.prompts import check_room, text_prompt
from aquila.serve.protocol.completions import DEFAULT_MAX_TOKENS, CompletionRequest
from aquila.serve.routes.tabby import tabby_completion
from aquila.serve.server import Server, get_server
from aquila.serve.sse import event, event_stream
from aquila.serve.usage import Tally

router = APIRouter()

MAX_PROMPTS = 2048


@dataclass(frozen=True)
class _Job:
    """A body, ready for the engine.

    Attributes:
        requests: one for each prompt.
        texts: the prompts as text, for `echo`.
        infill: instead of `requests`, where there is a suffix.
    """

    body: CompletionRequest
    server: Server
    requests: list[Request]
    texts: list[str]
    infill: InfillJob | None

    @property
    def num_choices(self) -> int:
        """Choices for each prompt."""
        return self.body.n or 1

    @property
    def drop_text(self) -> bool:
        """Nothing is to be written: one token was drawn for the engine's sake."""
        return self.body.max_tokens == 0

    def deltas(self) -> AsyncGenerator[tuple[int, Delta]]:
        """(which prompt, what came)."""
        if self.infill is not None:
            return _numbered(self.infill.stream(self.server.worker))
        return self.server.worker.stream_all(self.requests)


@router.post("/v1/completions", response_model=None)
async def completions(
    body: CompletionRequest, http: HttpRequest, server: Annotated[Server, Depends(get_server)]
) -> Response:
    """Continue a prompt, or several."""
    if body.segments is not None:
        return await tabby_completion(http, server, body)
    job = await run_in_threadpool(_prepare, server, body)  # a long prompt takes its time
    if body.stream:
        return await event_stream(http, _stream(job), ping_seconds=server.settings.ping_seconds)
    return JSONResponse(await unless_client_leaves(http, _complete(job)))


def _prepare(server: Server, body: CompletionRequest) -> _Job:
    model, adapter = server.model, server.adapter_for(body.model)
    num_drawn = body.best_of or body.n or 1
    if num_drawn < (body.n or 1):
        raise ConfigError(f"best_of: {num_drawn} is less than n, {body.n}")
    if body.stream and num_drawn > (body.n or 1):
        raise ConfigError("best_of: the best of several is known at the end only; leave out stream")
    ranked = num_drawn > (body.n or 1)
    params = body.sampling_params(
        max_new_tokens=min(max(1, _given(body.max_tokens, DEFAULT_MAX_TOKENS)), model.max_context),
        logprobs=0 if ranked and body.logprobs is None else body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
    )
    params = replace(params, n=num_drawn)
    if body.suffix:
        if not isinstance(body.prompt, str):
            raise ConfigError("suffix: goes with a prompt that is one text")
        if body.echo:
            raise ConfigError("echo: cannot go with a suffix; leave one out")
        request = infill_request(model, body.prompt, body.suffix, params, adapter=adapter)
        return _Job(body, server, [request], [body.prompt], InfillJob(request, body.suffix))
    requests, texts = [], []
    for token_ids, text in _prompts(server, body):
        check_room(model, token_ids, "prompt")
        requests.append(Request(tuple(token_ids), params, adapter))
        texts.append(text)
    return _Job(body, server, requests, texts, None)


def _prompts(server: Server, body: CompletionRequest) -> list[tuple[list[int], str]]:
    """Each prompt as token ids and as text."""
    prompt = body.prompt
    if prompt is None:
        raise ConfigError("prompt: is missing; give a text, token ids, or a list of either")
    flags = {"add_special_tokens": body.add_special_tokens, "parse_special": body.parse_special}
    if isinstance(prompt, str):
        return [(text_prompt(server.model, prompt, **flags), prompt)]
    if not prompt:
        raise ConfigError("prompt: the list is empty; give at least one")
    if len(prompt) > MAX_PROMPTS and not isinstance(prompt[0], int):
        raise ConfigError(f"prompt: {len(prompt)} prompts are too many; send {MAX_PROMPTS} at a time")
    given: list[Any] = [prompt] if isinstance(prompt[0], int) else list(prompt)
    tokenizer, found = server.model.tokenizer, []
    for each in given:
        if isinstance(each, str):
            found.append((text_prompt(server.model, each, **flags), each))
            continue
        if any(not 0 <= token_id < server.model.config.vocab_size for token_id in each) or not each:
            raise ConfigError(f"prompt: token ids are 0 to {server.model.config.vocab_size - 1}, and at least one")
        found.append((each, tokenizer.decode(each, skip_special=False) if body.echo else ""))
    return found


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


async def _numbered(deltas: AsyncGenerator[Delta]) -> AsyncGenerator[tuple[int, Delta]]:
    async with aclosing(deltas) as items:
        async for delta in items:
            yield 0, delta


@dataclass
class _Choice:
    """One choice as it grows."""

    text: str
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None
    sum_logprob: float = 0.0
    num_tokens: int = 0

    @property
    def mean_logprob(self) -> float:
        return self.sum_logprob / max(1, self.num_tokens)


async def _complete(job: _Job) -> dict[str, Any]:
    tally = Tally(job.requests)
    drawn: dict[tuple[int, int], list[Delta]] = {}
    async with aclosing(job.deltas()) as items:
        async for place, delta in items:
            tally.hear(place, delta)
            drawn.setdefault((place, delta.index), []).append(delta)
    choices: list[dict[str, Any]] = []
    for place, request in enumerate(job.requests):
        scored = [entry for delta in drawn[place, 0] for entry in delta.prompt_logprobs]
        found = [_choice(job, place, drawn[place, index], scored) for index in range(request.params.n)]
        if len(found) > job.num_choices:
            found = sorted(found, key=lambda choice: -choice.mean_logprob)[: job.num_choices]
        for choice in found:
            entry = {"index": len(choices), "text": choice.text, "logprobs": choice.logprobs}
            choices.append({**entry, "finish_reason": choice.finish_reason})
    return {**_head(job), "choices": choices, "usage": tally.usage(), "timings": tally.timings()}


def _choice(job: _Job, place: int, deltas: list[Delta], scored: list[TokenLogprob]) -> _Choice:
    request = job.requests[place]
    choice = _Choice(job.texts[place] if job.body.echo else "", finish_reason=deltas[-1].finish_reason)
    entries = [] if job.drop_text else [entry for delta in deltas for entry in delta.logprobs]
    if not job.drop_text:
        choice.text += "".join(delta.text for delta in deltas)
    else:
        choice.finish_reason = "length"
    choice.sum_logprob, choice.num_tokens = sum(entry.logprob for entry in entries), len(entries)
    if job.body.logprobs is not None:
        writer = CompletionLogprobs(job.server.model.tokenizer)
        parts = [writer.prompt(request.prompt_ids, scored)] if job.body.echo else []
        parts.append(writer.tokens(entries))
        choice.logprobs = parts[0] if len(parts) == 1 else join(*parts)
    return choice


async def _stream(job: _Job) -> AsyncGenerator[bytes]:
    tally, head, body = Tally(job.requests), _head(job), job.body
    writers: dict[int, CompletionLogprobs] = {}
    scored: dict[int, tuple[TokenLogprob, ...]] = {}  # by prompt; the first choice brings them
    async with aclosing(job.deltas()) as items:
        async for place, delta in items:
            tally.hear(place, delta)
            index = place * job.num_choices + delta.index
            text, logprobs = ("", None) if job.drop_text else (delta.text, None)
            is_first = index not in writers
            writer = writers.setdefault(index, CompletionLogprobs(job.server.model.tokenizer))
            scored.setdefault(place, delta.prompt_logprobs)
            if body.logprobs is not None:
                logprobs = writer.tokens(() if job.drop_text else delta.logprobs)
            if body.echo and is_first:
                text = job.texts[place] + text
                if body.logprobs is not None:
                    writer = writers[index] = CompletionLogprobs(job.server.model.tokenizer)
                    prompt = writer.prompt(job.requests[place].prompt_ids, scored[place])
                    logprobs = join(prompt, writer.tokens(() if job.drop_text else delta.logprobs))
            reason = "length" if job.drop_text and delta.finish_reason else delta.finish_reason
            if text or reason or (logprobs and logprobs["tokens"]):
                choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
                yield event({**head, "choices": [choice]})
    if body.stream_options is not None and body.stream_options.include_usage:
        yield event({**head, "choices": [], "usage": tally.usage(), "timings": tally.timings()})


def _head(job: _Job) -> dict[str, Any]:
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": job.body.model or job.server.model_name,
    }
