"""The web application: routes, the door before them, and errors in one shape."""

from fastapi import FastAPI

from aquila import __version__
from aquila.serve import errors
from aquila.serve.routes import (
    chat,
    completions,
    health,
    infill,
    legacy,
    messages,
    metrics,
    models,
    responses,
    tabby,
    tokenize,
    tools,
    web,
)
from aquila.serve.security import Guard
from aquila.serve.server import Server

ROUTERS = (
    health.router,
    metrics.router,
    models.router,
    completions.router,
    chat.router,
    tokenize.router,
    infill.router,
    tabby.router,
    responses.router,
    messages.router,
    tools.router,
    web.router,
)


def create_app(server: Server) -> FastAPI:
    """The application of a server. No page of documentation that would load scripts from elsewhere: /openapi.json."""
    app = FastAPI(title="Aquila", version=__version__, docs_url=None, redoc_url=None)
    app.state.server = server
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    if server.settings.legacy_flagai:
        app.include_router(legacy.router)
    app.add_middleware(Guard, server=server)
    return app
