"""Figures for Prometheus."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from aquila.serve.server import Server, get_server

router = APIRouter()


@router.get("/metrics")
async def metrics(server: Annotated[Server, Depends(get_server)]) -> Response:
    """Prometheus' text format."""
    return Response(server.metrics.page(), media_type=CONTENT_TYPE_LATEST)
