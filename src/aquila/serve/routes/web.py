"""The web page: `/`, and what it loads from `/ui/`. Files of the package, under a policy that lets nothing else in."""

import hashlib
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import Response

from aquila.serve.errors import ServeError

router = APIRouter(include_in_schema=False)

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    # No inline script or style, nothing from elsewhere, and no text that becomes HTML (Trusted Types without a policy).
    "content-security-policy": "; ".join(
        (
            "default-src 'self'",
            "img-src 'self' data: blob:",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


@cache
def page_files() -> dict[str, tuple[bytes, str, str]]:
    """Name -> (content, media type, entity tag) of every file of the page."""
    found = {}
    for entry in files("aquila.serve").joinpath("web").iterdir():
        kind = TYPES.get(entry.name[entry.name.rfind(".") :])
        if kind is not None and entry.is_file():
            content = entry.read_bytes()
            found[entry.name] = (content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """The page."""
    return _file(request, "index.html")


@router.api_route("/favicon.ico", methods=["GET", "HEAD"])
async def favicon(request: Request) -> Response:
    """For those who ask for it unseen."""
    return _file(request, "icon.svg")


@router.api_route("/ui/{name}", methods=["GET", "HEAD"])
async def page_file(name: str, request: Request) -> Response:
    """A script, a style sheet or a picture of the page."""
    return _file(request, name)


def _file(request: Request, name: str) -> Response:
    found = page_files().get(name)
    if found is None:
        raise ServeError(404, f"the page has no file {name[:100]!r}", code="not_found")
    content, kind, tag = found
    headers = {**HEADERS, "etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)
