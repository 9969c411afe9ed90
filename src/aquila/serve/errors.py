"""Errors as OpenAI's API has them: `{"error": {"message", "type", "param", "code"}}`, whatever went wrong."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from aquila.errors import AquilaError, UnsupportedError
from aquila.serve.worker import BusyError, FailedError, StoppedError

log = logging.getLogger(__name__)

DRAIN_RETRY_SECONDS = 5

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    501: "not_implemented_error",
    503: "service_unavailable_error",
}


class ServeError(AquilaError):
    """An answer other than 200.

    Args:
        status: HTTP status.
        message: what is wrong and what to do.
        param: field of the request that it is about.
        code: a word for programs.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        return JSONResponse(self.body(), self.status, self.headers)


def as_serve_error(error: Exception) -> ServeError:
    """What a client is told of any exception."""
    match error:
        case ServeError():
            return error
        case BusyError():
            headers = {"retry-after": str(error.retry_after_seconds)}
            return ServeError(429, str(error), code="queue_full", headers=headers)
        case StoppedError():
            return ServeError(503, str(error), code="shutting_down", headers={"retry-after": str(DRAIN_RETRY_SECONDS)})
        case FailedError():
            return ServeError(500, str(error), code="computation_failed")
        case UnsupportedError():
            return ServeError(501, str(error), code="unsupported")
        case AquilaError():
            return ServeError(400, str(error))
    log.error("a request failed in a way that nobody thought of", exc_info=error)
    return ServeError(500, "the server failed; its log says why", code="internal_error")


def install(app: FastAPI) -> None:
    """Makes the app answer every exception in this shape."""

    async def answer(_: Request, error: Exception) -> Response:
        return as_serve_error(error).response()

    async def answer_validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError), "it is registered for these"
        return _validation_error(error).response()

    async def answer_http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "it is registered for these"
        message = {
            404: "there is no such route; /openapi.json lists them",
            405: "the route does not take this method; /openapi.json lists what it takes",
        }.get(error.status_code, str(error.detail))
        return ServeError(error.status_code, message, headers=error.headers).response()

    app.add_exception_handler(AquilaError, answer)
    app.add_exception_handler(RequestValidationError, answer_validation)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(Exception, answer)


def _validation_error(error: RequestValidationError) -> ServeError:
    """The first field that is wrong; where it may be of several kinds, what each of them wants."""
    found = error.errors()
    path = [str(part) for part in found[0]["loc"][1:]]
    field = path[:1] if path else []
    same = [each for each in found if [str(part) for part in each["loc"][1:2]] == field]
    kinds = dict.fromkeys(each["msg"] for each in same)
    param = ".".join(path if len(same) == 1 else field) or None
    return ServeError(400, f"{param or 'the body'}: {'; or '.join(kinds)}", param=param)
