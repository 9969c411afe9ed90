"""What Tabby's editor plug-ins ask a server: a completion at a cursor, and whether the server is well."""

import os
import platform
import uuid
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from aquila import __version__
from aquila.generate.infill import ExtraFile, infill_request
from aquila.generate.sampling import SamplingParams
from aquila.serve.disconnect import unless_client_leaves
from aquila.serve.infilling import InfillJob
from aquila.serve.protocol.completions import CompletionRequest
from aquila.serve.protocol.infill import Segments
from aquila.serve.server import Server, get_server

router = APIRouter()

NEW_TOKENS = 64  # its plug-ins do not say how much they want


async def tabby_completion(http: HttpRequest, server: Server, body: CompletionRequest) -> Response:
    """The middle for a body with `segments`; /v1/completions passes these here."""
    assert body.segments is not None, "the caller looked"
    job = await run_in_threadpool(_prepare, server, body, body.segments)
    text = await unless_client_leaves(http, _text(server, job))
    return JSONResponse({"id": f"cmpl-{uuid.uuid4()}", "choices": [{"index": 0, "text": text}]})


@router.get("/v1/health")
@router.post("/v1/health")
async def health(server: Annotated[Server, Depends(get_server)]) -> dict[str, Any]:
    """The machine and the model."""
    version = {"build_date": "", "build_timestamp": "", "git_sha": "", "git_describe": f"aquila-{__version__}"}
    return {
        "model": server.model_name,
        "chat_model": server.model_name,
        "device": str(getattr(server.model.engine.runner, "device", "cpu")).partition(":")[0],  # only torch's has one
        "arch": platform.machine(),
        "cpu_info": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count() or 1,
        "cuda_devices": [],
        "version": version,
    }


@router.get("/v1beta/server_setting")
async def server_setting() -> dict[str, Any]:
    """Nobody collects anything here."""
    return {"disable_client_side_telemetry": True}


@router.post("/v1/events")
async def events() -> Response:
    """What was shown and taken; not kept."""
    return Response(status_code=200)


def _prepare(server: Server, body: CompletionRequest, segments: Segments) -> InfillJob:
    pieces = [
        *(segments.relevant_snippets_from_recently_opened_files or ()),
        *(segments.relevant_snippets_from_changed_files or ()),
        *(segments.declarations or ()),
    ]
    params = SamplingParams(
        temperature=0.0 if body.temperature is None else body.temperature,
        max_new_tokens=NEW_TOKENS,
        seed=body.seed if body.seed is not None and body.seed >= 0 else None,
    )
    extra = [ExtraFile(piece.body, piece.filepath) for piece in pieces]
    suffix = segments.suffix or ""
    return InfillJob(infill_request(server.model, segments.prefix, suffix, params, extra), suffix)


async def _text(server: Server, job: InfillJob) -> str:
    text = ""
    async with aclosing(job.stream(server.worker)) as deltas:
        async for delta in deltas:
            text += delta.text
    return text
