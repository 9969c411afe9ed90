"""What clients of a server share: its address, the events of its streams, and what went wrong in words."""

import json
from typing import Any

import httpx

from aquila.errors import ConfigError, GenerationError, UnsupportedError

_FIELD = "data:"


class Lines:
    """Lines of a text that comes in pieces. Only a line feed ends one: httpx's own `iter_lines` ends them at all that
    Unicode calls an end, which may stand in an event's JSON."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[str]:
        *lines, self._rest = (self._rest + text).split("\n")
        return lines


def event_data(line: str) -> dict[str, Any] | None:
    """The document of one line of a stream; None for pings, empty lines and the `[DONE]` at the end.

    Raises:
        GenerationError: the server ended the stream with an error, or it speaks something else.
    """
    if not line.startswith(_FIELD):
        return None
    data = line.removeprefix(_FIELD).strip()
    if data == "[DONE]":
        return None
    try:
        event = json.loads(data)
    except ValueError as error:
        raise GenerationError(
            f"the server sent {data[:80]!r}, which is not JSON; is it an OpenAI-compatible one?"
        ) from error
    if not isinstance(event, dict):
        raise GenerationError(f"the server sent {data[:80]!r} where an object belongs; is it an OpenAI-compatible one?")
    if event.get("error"):
        told = event["error"]
        raise GenerationError(f"the server: {told.get('message', told) if isinstance(told, dict) else told}")
    return event


def server_root(base_url: str) -> str:
    """`http://host:port` of a server, also when its OpenAI address was given."""
    root = base_url.rstrip("/")
    try:
        url = httpx.URL(root)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"--base-url: {base_url!r} is no address; give one such as http://127.0.0.1:8000")
    return root.removesuffix("/v1")


def key_header(api_key: str | None) -> dict[str, str]:
    """What says the key to a server, nothing where there is none."""
    if not api_key:
        return {}
    if not (api_key.isascii() and api_key.isprintable()):
        raise ConfigError("--api-key: holds characters that no key has; give the server's, of printable ASCII")
    return {"Authorization": f"Bearer {api_key}"}


def refused(url: str, response: httpx.Response) -> GenerationError:
    """What a server said against a request."""
    try:
        told = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        page = response.text.lstrip().startswith("<")
        told = f"{response.reason_phrase if page else response.text[:200]}; is it an OpenAI-compatible server?"
    if response.status_code == 401:
        told = f"{told}; here: --api-key KEY, or the variable AQUILA_API_KEY"
    kind = UnsupportedError if response.status_code == 501 else GenerationError
    return kind(f"{url}: {response.status_code} {told}")


def unreachable(url: str, error: Exception) -> GenerationError:
    return GenerationError(
        f"{url}: no answer ({error or type(error).__name__}); start a server with `aquila serve MODEL`, or correct "
        "--base-url"
    )
