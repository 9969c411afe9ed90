"""The model and its adapters, each a model of its own to clients."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from aquila.serve.server import Server, get_server

router = APIRouter()


@router.get("/v1/models")
async def list_models(server: Annotated[Server, Depends(get_server)]) -> dict[str, Any]:
    """The model, then its adapters."""
    names = [server.model_name, *server.adapters]
    return {"object": "list", "data": [_card(server, name) for name in names]}


@router.get("/v1/models/{name:path}")
async def get_model(name: str, server: Annotated[Server, Depends(get_server)]) -> dict[str, Any]:
    """One of them."""
    return _card(server, server.adapter_for(name) or server.model_name)


def _card(server: Server, name: str) -> dict[str, Any]:
    model = server.model
    return {
        "id": name,
        "object": "model",
        "created": server.created,
        "owned_by": "aquila",
        "root": server.model_name,
        "parent": None if name == server.model_name else server.model_name,
        "max_model_len": model.max_context,
        "kind": model.kind,
        "chat_template": server.template.name,
        "fill_in_the_middle": model.infill is not None,
        "tools": list(server.settings.tools),
    }
