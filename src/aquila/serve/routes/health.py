"""Whether the server is ready to answer."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from aquila.serve.server import Server, get_server

router = APIRouter()


@router.get("/health")
async def health(server: Annotated[Server, Depends(get_server)]) -> JSONResponse:
    """200 when ready; 503 while loading or draining, or when the engine has failed."""
    status: str = server.phase
    if status == "ready":
        status = "ok" if server.worker.alive else "failed"
    if status == "ok":
        return JSONResponse({"status": status})
    return JSONResponse({"status": status}, 503, {"retry-after": "2"})
