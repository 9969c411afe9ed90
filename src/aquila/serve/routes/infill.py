"""Fill in the middle as editors ask for it: llama.cpp's /infill and /props, Mistral's and DeepSeek's routes."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from aquila import __version__
from aquila.generate.infill import ExtraFile, Order, infill_prompt, infill_request
from aquila.generate.request import Delta, Request
from aquila.generate.sampling import SamplingParams
from aquila.serve.disconnect import unless_client_leaves
from aquila.serve.infilling import InfillJob
from aquila.serve.prompts import check_room, text_prompt
from aquila.serve.protocol.infill import DEFAULT_NEW_TOKENS, FimRequest, InfillRequest
from aquila.serve.routes.completions import completions
from aquila.serve.server import Server, get_server
from aquila.serve.sse import event, event_stream
from aquila.serve.usage import Tally

router = APIRouter()
router.add_api_route("/beta/completions", completions, methods=["POST"], response_model=None)  # DeepSeek's address

SEVERAL_TEMPERATURE = 0.6  # for several middles at one place, which would all be the same at 0
_STOP_TYPES = {"length": "limit", "cancelled": "none"}


@dataclass(frozen=True)
class _Job:
    body: InfillRequest
    server: Server
    infill: InfillJob
    truncated: bool

    @property
    def warms_up(self) -> bool:
        """Nothing is to be written: the context is computed, for the request that will follow."""
        return self.body.n_predict == 0

    def deltas(self) -> AsyncGenerator[Delta]:
        return self.infill.stream(self.server.worker)


@router.post("/infill", response_model=None)
async def infill(body: InfillRequest, http: HttpRequest, server: Annotated[Server, Depends(get_server)]) -> Response:
    """Fill in at a cursor, as llama.cpp's server does it."""
    job = await run_in_threadpool(_prepare, server, body)
    if body.stream:
        return await event_stream(http, _stream(job), ping_seconds=server.settings.ping_seconds, done=b"")
    answers = await unless_client_leaves(http, _complete(job))
    picked = [_pick(answer, body.response_fields) for answer in answers]
    return JSONResponse(picked[0] if len(picked) == 1 else picked)


@router.post("/v1/fim/completions", response_model=None)
@router.post("/fim/completions", response_model=None)
async def fim_completions(
    body: FimRequest, http: HttpRequest, server: Annotated[Server, Depends(get_server)]
) -> Response:
    """Fill in between two texts, as Mistral's API has it."""
    request, job = await run_in_threadpool(_prepare_fim, server, body)
    deltas = server.worker.stream(request) if job is None else job.stream(server.worker)
    head = {"id": f"fim-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model or server.model_name}
    if body.stream:
        events = _stream_fim(deltas, Tally([request]), head)
        return await event_stream(http, events, ping_seconds=server.settings.ping_seconds)
    return JSONResponse(await unless_client_leaves(http, _complete_fim(deltas, Tally([request]), head)))


@router.get("/props")
async def props(server: Annotated[Server, Depends(get_server)]) -> dict[str, Any]:
    """What llama.cpp's clients ask a server about itself."""
    model, tokenizer = server.model, server.model.tokenizer
    ends = {"bos_token": tokenizer.bos_token_id, "eos_token": next(iter(tokenizer.eos_token_ids), None)}
    return {
        "default_generation_settings": {"n_ctx": model.max_context, "params": {"n_predict": DEFAULT_NEW_TOKENS}},
        "total_slots": model.engine.scheduler.max_sequences,
        "model_alias": server.model_name,
        "model_path": server.model_name,
        "chat_template": tokenizer.chat_template or "",
        **{name: "" if token_id is None else tokenizer.token_text(token_id) for name, token_id in ends.items()},
        "modalities": {"vision": False, "audio": False},
        "fill_in_the_middle": list(model.infill.orders) if model.infill is not None else [],
        "build_info": f"aquila {__version__}",
        "is_sleeping": False,
    }


def _prepare(server: Server, body: InfillRequest) -> _Job:
    model, adapter = server.model, server.adapter_for(body.model)
    n = body.n_cmpl or body.n or 1
    temperature = body.temperature
    if temperature is None:
        temperature = 0.0 if n == 1 else SEVERAL_TEMPERATURE
    new_tokens = DEFAULT_NEW_TOKENS if body.n_predict is None or body.n_predict < 0 else body.n_predict
    penalty = body.repetition_penalty if body.repetition_penalty is not None else body.repeat_penalty
    asked = body.model_copy(update={"temperature": temperature, "n": n, "repetition_penalty": penalty})
    params = asked.sampling_params(max_new_tokens=max(1, new_tokens))
    extra = [ExtraFile(each.text, each.filename or "") for each in body.input_extra]
    order: Order | None = "spm" if body.spm_infill else None
    prompt = infill_prompt(
        model,
        body.input_prefix,
        body.input_suffix,
        extra,
        line=body.prompt,
        max_new_tokens=params.max_new_tokens,
        order=order,
    )
    late = body.t_max_predict_ms
    job = InfillJob(
        Request(prompt.token_ids, prompt.ended(params), adapter),
        body.input_suffix,
        min_indent=body.n_indent,
        single_line=body.single_line,
        max_seconds=late / 1000 if late is not None and late > 0 else None,
    )
    return _Job(body, server, job, prompt.truncated)


async def _complete(job: _Job) -> list[dict[str, Any]]:
    tally = Tally([job.infill.request])
    answers = [_Answer() for _ in range(job.infill.request.params.n)]
    async with aclosing(job.deltas()) as deltas:
        async for delta in deltas:
            tally.hear(0, delta)
            answers[delta.index].hear(delta)
    return [_whole(job, tally, index, answer) for index, answer in enumerate(answers)]


async def _stream(job: _Job) -> AsyncGenerator[bytes]:
    tally = Tally([job.infill.request])
    answers = [_Answer() for _ in range(job.infill.request.params.n)]
    async with aclosing(job.deltas()) as deltas:
        async for delta in deltas:
            tally.hear(0, delta)
            answer = answers[delta.index]
            answer.hear(delta)
            if delta.text and not job.warms_up:
                yield event(
                    {
                        "index": delta.index,
                        "content": delta.text,
                        "tokens": list(delta.token_ids),
                        "stop": False,
                        "id_slot": 0,
                        "tokens_predicted": answer.num_tokens,
                        "tokens_evaluated": tally.prompt_tokens,
                    }
                )
            if delta.finish_reason is not None:
                last = _whole(job, tally, delta.index, answer) | {"content": "", "tokens": []}
                yield event(_pick(last, job.body.response_fields) | {"stop": True})


@dataclass
class _Answer:
    """One middle as it grows."""

    text: str = ""
    num_tokens: int = 0
    last_token_id: int | None = None
    finish_reason: str = "length"

    def hear(self, delta: Delta) -> None:
        self.text += delta.text
        self.num_tokens += len(delta.token_ids)
        self.last_token_id = delta.token_ids[-1] if delta.token_ids else self.last_token_id
        self.finish_reason = delta.finish_reason or self.finish_reason


def _whole(job: _Job, tally: Tally, index: int, answer: _Answer) -> dict[str, Any]:
    request = job.infill.request
    ends = {*request.params.stop_token_ids, *job.server.model.engine.end_token_ids}
    by_token = "eos" if answer.last_token_id in ends else "word"
    num_prompt = len(request.prompt_ids)
    return {
        "index": index,
        "content": "" if job.warms_up else answer.text,
        "tokens": [],
        "id_slot": 0,
        "stop": True,
        "model": job.body.model or job.server.model_name,
        "tokens_predicted": 0 if job.warms_up else answer.num_tokens,
        "tokens_evaluated": num_prompt,
        "generation_settings": _settings(request.params),
        "has_new_line": "\n" in answer.text,
        "truncated": job.truncated,
        "stop_type": "limit" if job.warms_up else _STOP_TYPES.get(answer.finish_reason, by_token),
        "stopping_word": "",
        "tokens_cached": num_prompt + answer.num_tokens,
        "timings": _timings(tally),
    }


def _settings(params: SamplingParams) -> dict[str, Any]:
    return {
        "n_predict": params.max_new_tokens,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "seed": -1 if params.seed is None else params.seed,
        "stop": list(params.stop),
    }


def _timings(tally: Tally) -> dict[str, Any]:
    timings = tally.timings()
    for part in ("prompt", "predicted"):
        count = max(1, timings[f"{part}_n"])
        timings[f"{part}_per_token_ms"] = round(timings[f"{part}_ms"] / count, 3)
    return timings


def _pick(answer: dict[str, Any], fields: list[str] | None) -> dict[str, Any]:
    """The fields asked for, each under the name that it was asked by: `timings/prompt_ms` stays one name."""
    if fields is None:
        return answer
    picked = {}
    for name in fields:
        value: Any = answer
        for part in name.split("/"):
            value = value.get(part, _ABSENT) if isinstance(value, dict) else _ABSENT
        if value is not _ABSENT:
            picked[name] = value
    return picked


_ABSENT = object()


def _prepare_fim(server: Server, body: FimRequest) -> tuple[Request, InfillJob | None]:
    model, adapter = server.model, server.adapter_for(body.model)
    seed = body.random_seed if body.random_seed is not None else body.seed
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    params = SamplingParams(
        temperature=0.0 if body.temperature is None else body.temperature,
        top_k=0,
        top_p=1.0 if body.top_p is None else body.top_p,
        max_new_tokens=max(1, DEFAULT_NEW_TOKENS if body.max_tokens is None else body.max_tokens),
        seed=None if seed is None or seed < 0 else seed,
        stop=tuple(stop),
    )
    if not body.suffix:
        ids = text_prompt(model, body.prompt)
        check_room(model, ids, "prompt")
        return Request(tuple(ids), params, adapter), None
    request = infill_request(model, body.prompt, body.suffix, params, adapter=adapter)
    return request, InfillJob(request, body.suffix)


async def _complete_fim(deltas: AsyncGenerator[Delta], tally: Tally, head: dict[str, Any]) -> dict[str, Any]:
    answer = _Answer()
    async with aclosing(deltas) as items:
        async for delta in items:
            tally.hear(0, delta)
            answer.hear(delta)
    message = {"role": "assistant", "content": answer.text, "tool_calls": None}
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": tally.usage()}


async def _stream_fim(deltas: AsyncGenerator[Delta], tally: Tally, head: dict[str, Any]) -> AsyncGenerator[bytes]:
    content: dict[str, Any] = {"role": "assistant"}
    async with aclosing(deltas) as items:
        async for delta in items:
            tally.hear(0, delta)
            if not delta.text and delta.finish_reason is None:
                continue
            choice = {"index": 0, "delta": content | {"content": delta.text}, "finish_reason": delta.finish_reason}
            usage = {} if delta.finish_reason is None else {"usage": tally.usage()}
            yield event({**head, "object": "chat.completion.chunk", "choices": [choice], **usage})
            content = {}
