"""/aquila/tools: what the web page may run here, and running it. Only pages of this server itself may ask."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from aquila.serve.disconnect import unless_client_leaves
from aquila.serve.errors import ServeError
from aquila.serve.protocol.common import Fields, Many
from aquila.serve.security import same_origin
from aquila.serve.server import Server, get_server

router = APIRouter()


class RunRequest(Fields):
    """Run a tool."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    confirmed: bool = False
    images: Many[str] = Field(default_factory=list)


@router.get("/aquila/tools")
async def list_tools(request: Request, server: Annotated[Server, Depends(get_server)]) -> dict[str, Any]:
    """The tools that `--tools` named."""
    _check_origin(request)
    return {"tools": server.tools.cards() if server.tools is not None else []}


@router.post("/aquila/tools/run")
async def run_tool(
    body: RunRequest, request: Request, server: Annotated[Server, Depends(get_server)]
) -> dict[str, Any]:
    """Run one of them."""
    _check_origin(request)
    if server.tools is None:
        raise ServeError(404, "this server runs no tools; start it with --tools NAME,...", code="tools_disabled")
    work = server.tools.run(body.name, body.arguments, confirmed=body.confirmed, images=body.images)
    return await unless_client_leaves(request, work)


def _check_origin(request: Request) -> None:
    """Stricter than the door: `--cors-origin` lets pages talk to the model, not run tools."""
    origin = request.headers.get("origin")
    if origin is not None and not same_origin(origin, request.headers.get("host", "")):
        raise ServeError(403, "only the page of this server may use its tools", code="origin_not_allowed")
