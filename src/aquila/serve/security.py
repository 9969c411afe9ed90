"""The door: who may come in, by which name, from which page, with which key, and with how large a body.

In this order: the Host header (a name of another site that resolves to this machine is DNS rebinding), the origin of a
web page, the key, the content type (a form of another site cannot send JSON), the size of the body, its JSON.
"""

import asyncio
import hmac
import ipaddress
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from fastapi.responses import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aquila.serve.disconnect import CLIENT_LEFT
from aquila.serve.errors import ServeError
from aquila.serve.json_body import check_json
from aquila.serve.server import Server
from aquila.serve.settings import LOOPBACK_NAMES

PUBLIC_PATHS = ("/", "/health", "/v1/health", "/favicon.ico")
PUBLIC_PREFIXES = ("/ui/",)  # the page itself; it asks its reader for the key
IMAGE_PATHS = ("/aquila/tools/run",)
BODY_METHODS = ("POST", "PUT", "PATCH", "DELETE")
SLOWEST_BYTES_PER_SECOND = 16 << 10  # a slow line may send a large body; a client that drips may not hold its memory
LARGE_BODY = 256 << 10  # bytes that are worth a thread


class Guard:
    """ASGI middleware around the whole app; counts open requests and answers too."""

    def __init__(self, app: ASGIApp, server: Server):
        self._app = app
        self._server = server
        self._settings = server.settings
        own = [self._settings.host, socket.gethostname(), *LOOPBACK_NAMES]
        self._hosts = {name.lower() for name in (*own, *self._settings.allowed_hosts)}
        self._keys = tuple(key.encode() for key in self._settings.api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._allow_origin(Headers(scope=scope), MutableHeaders(scope=message))
            await send(message)

        self._server.num_open_requests += 1
        try:
            await self._pass(scope, receive, send_counted)
        finally:
            self._server.num_open_requests -= 1
            route = getattr(scope.get("route"), "path", "none")  # as declared: a path as asked for has no end of values
            self._server.metrics.requests.labels(route, str(status)).inc()

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            self._check_origin(headers)
            if scope["method"] == "OPTIONS" and "origin" in headers:
                await self._preflight()(scope, receive, send)
                return
            self._check_key(scope["path"], headers)
            if scope["method"] in BODY_METHODS:
                receive = await self._read_body(scope["path"], headers, receive)
        except ServeError as error:
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_host(self, headers: Mapping[str, str]) -> None:
        if "*" in self._settings.allowed_hosts:
            return
        host = _host_name(headers.get("host", ""))
        if host in self._hosts or (not self._settings.loopback and _is_address(host)):
            return
        raise ServeError(
            403,
            f"this server is not known as {host[:100]!r}; start it with --allowed-host {host[:100]} if it should be",
            code="host_not_allowed",
        )

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        origin = headers.get("origin")
        if origin is None or self._origin_allowed(origin) or same_origin(origin, headers.get("host", "")):
            return
        raise ServeError(
            403,
            f"pages of {origin[:100]!r} may not ask this server; if they should, start it with --cors-origin",
            code="origin_not_allowed",
        )

    def _origin_allowed(self, origin: str) -> bool:
        return "*" in self._settings.cors_origins or origin in self._settings.cors_origins

    def _allow_origin(self, request: Mapping[str, str], response: MutableHeaders) -> None:
        origin = request.get("origin")
        if origin is not None and self._origin_allowed(origin):
            response["access-control-allow-origin"] = origin
            response.add_vary_header("origin")
        response["x-content-type-options"] = "nosniff"

    def _preflight(self) -> Response:
        headers = {
            "access-control-allow-methods": "GET, POST, OPTIONS",
            "access-control-allow-headers": "authorization, content-type, x-api-key",
            "access-control-max-age": "600",
        }
        return Response(status_code=204, headers=headers)

    def _check_key(self, path: str, headers: Mapping[str, str]) -> None:
        if not self._keys or path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES):
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        matches = [hmac.compare_digest(given.encode(), key) for key in self._keys]  # all of them, in the same time
        if any(matches):
            return
        what = "the API key is wrong" if given else "an API key is needed"
        raise ServeError(
            401,
            f"{what}; send it as `Authorization: Bearer KEY`",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )

    async def _read_body(self, path: str, headers: Mapping[str, str], receive: Receive) -> Receive:
        """Takes in the whole body and gives what plays it again, and then tells when the client leaves."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            raise ServeError(415, f"the content type is {kind[:100]!r}; send JSON as application/json")
        limit = self._settings.max_image_body_bytes if path in IMAGE_PATHS else self._settings.max_body_bytes
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        body = bytearray()
        deadline = asyncio.get_running_loop().time() + self._settings.read_seconds
        try:
            async with asyncio.timeout_at(deadline) as timeout:
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ServeError(CLIENT_LEFT, "the client left before its body was here")
                    body += message.get("body", b"")
                    timeout.reschedule(deadline + len(body) / SLOWEST_BYTES_PER_SECOND)
                    more = message.get("more_body", False)
                    if len(body) > limit:
                        raise _too_large(limit)
        except TimeoutError:
            message = f"the body came too slowly: {len(body)} bytes by now; send it faster, or less"
            raise ServeError(408, message, headers={"connection": "close"}) from None
        if len(body) > LARGE_BODY:
            await asyncio.to_thread(check_json, bytes(body))
        else:
            check_json(bytes(body))
        return _replay(bytes(body), receive)


def _too_large(limit: int) -> ServeError:
    return ServeError(413, f"the body is larger than {limit} bytes; send less", headers={"connection": "close"})


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def same_origin(origin: str, host: str) -> bool:
    """Whether a page of `origin` came from this server. Schemes may differ where a proxy adds TLS."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
