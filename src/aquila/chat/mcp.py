"""Tools of MCP servers over stdio: newline-delimited JSON-RPC with a program that we start.

    {"mcpServers": {"files": {"command": "npx", "args": ["-y", "some-server"], "env": {"KEY": "value"}}}}

Speaks the stateless protocol of 2026-07-28 (`server/discover`, version and capabilities in each request's `_meta`) and,
with servers that do not know it, the older handshake (`initialize`). A tool is called `<server>_<tool>`. Sources:
https://modelcontextprotocol.io/specification/2026-07-28/basic and .../2025-11-25/basic/lifecycle.

A server is a program that somebody wrote, so each of its tools asks before it runs, also one that says it only reads.
"""

import base64
import json
import logging
import os
import queue
import re
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aquila import __version__
from aquila.chat.tool_result import ToolImage, ToolResult
from aquila.chat.toolspec import MAX_NAME, NO_PARAMETERS, Permission, ToolSpec, compact_json
from aquila.errors import AquilaError, ConfigError

log = logging.getLogger(__name__)

STATELESS = "2026-07-28"
HANDSHAKE = "2025-11-25"
_META = "io.modelcontextprotocol/"
_CLIENT = {"name": "aquila", "version": __version__}
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "SYSTEMROOT", "APPDATA")
DISCOVER_SECONDS = 5.0  # an older server may wait for `initialize` without a word
CALL_SECONDS = 60.0
MAX_LINE = 32 << 20


class McpError(AquilaError):
    """A server does not start, does not answer, or answers with an error."""


@dataclass(frozen=True)
class McpServer:
    """An entry of `mcpServers`."""

    name: str
    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def connect(self) -> "McpClient":
        """Starts the program and agrees on a version. `McpError` if that fails."""
        return McpClient(self)


def read_servers(path: Path) -> dict[str, McpServer]:
    """Servers of a JSON file. `ConfigError` says what is wrong in it."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from None
    entries = data.get("mcpServers") if isinstance(data, dict) else None
    if not isinstance(entries, dict):
        raise ConfigError(f'{path}: must be {{"mcpServers": {{NAME: {{"command": ..., "args": [...]}}}}}}')
    return {name: _server(name, entry, f"{path}: mcpServers.{name}") for name, entry in entries.items()}


def _server(name: str, entry: Any, where: str) -> McpServer:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,31}", name):
        raise ConfigError(f"{where}: name a server with a letter, then up to 31 letters, digits, '_' and '-'")
    command = entry.get("command") if isinstance(entry, dict) else None
    if not isinstance(command, str):
        raise ConfigError(f"{where}: needs a command; servers are started here and spoken to over stdio")
    args, env = entry.get("args", []), entry.get("env", {})
    if not isinstance(args, list) or not isinstance(env, dict):
        raise ConfigError(f"{where}: args must be a list and env an object of strings")
    return McpServer(name, command, tuple(map(str, args)), {str(key): str(value) for key, value in env.items()})


class McpClient:
    """A running server. Any thread may call; requests are answered in any order."""

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self.version = ""
        self._lock = threading.Lock()
        self._next_id = 0
        self._ended = False
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._process = self._start()
        self._reader = threading.Thread(target=self._read, name=f"mcp-{server.name}", daemon=True)
        self._reader.start()
        try:
            self._agree()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "McpClient":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        try:
            return subprocess.Popen(
                [self.server.command, *self.server.args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment | dict(self.server.env),
            )
        except OSError as error:
            raise McpError(
                f"the MCP server {self.server.name!r} cannot be started: {self.server.command}: {error.strerror}"
            ) from None

    def close(self) -> None:
        """Closes the server's stdin, and ends it if it does not leave by itself."""
        assert self._process.stdin is not None, "the pipe was asked for"
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            log.debug("the MCP server %s had left already", self.server.name)
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None, "the pipe was asked for"
        self._process.stdout.close()

    def _agree(self) -> None:
        try:
            found = self._request("server/discover", {}, DISCOVER_SECONDS, version=STATELESS)
            if STATELESS in found.get("supportedVersions", [STATELESS]):
                self.version = STATELESS
                return
        except McpError as error:
            log.debug("%s: %s; trying the handshake", self.server.name, error)
        hello = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": _CLIENT}
        agreed = self._request("initialize", hello, CALL_SECONDS)
        self.version = str(agreed.get("protocolVersion", HANDSHAKE))
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def tools(self) -> list[ToolSpec]:
        """The server's tools, all pages. `McpError` when the list cannot be read."""
        found: list[ToolSpec] = []
        cursor: str | None = None
        while True:
            page = self._request("tools/list", {"cursor": cursor} if cursor else {}, CALL_SECONDS)
            try:
                found += [self._tool(entry) for entry in page["tools"]]
            except (KeyError, TypeError, AttributeError) as error:
                raise McpError(f"the MCP server {self.server.name!r} lists its tools wrongly: {error!r}") from None
            before, cursor = cursor, page.get("nextCursor")
            if not cursor or cursor == before:
                return found

    def _tool(self, entry: Mapping[str, Any]) -> ToolSpec:
        original = str(entry["name"])
        name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{self.server.name}_{original}")[:MAX_NAME]
        reads_only = bool((entry.get("annotations") or {}).get("readOnlyHint"))
        everything: frozenset[Permission] = frozenset({"network", "write", "exec"})
        return ToolSpec(
            name=name,
            description={"en": str(entry.get("description") or entry.get("title") or "")},
            parameters=entry.get("inputSchema") or NO_PARAMETERS,
            permissions=frozenset({"network"}) if reads_only else everything,
            timeout_seconds=CALL_SECONDS,
            run=lambda **arguments: self.call(original, arguments),
            origin=f"MCP server {self.server.name}",
        )

    def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Calls a tool by its own name. `McpError` when the server does not answer, or with an error."""
        result = self._request("tools/call", {"name": tool, "arguments": dict(arguments)}, CALL_SECONDS)
        if result.get("resultType", "complete") != "complete":
            return ToolResult(f"{tool} asks for more input, which is not supported here", error=True)
        texts: list[str] = []
        images: list[ToolImage] = []
        for part in result.get("content") or ():
            if part.get("type") == "text":
                texts.append(str(part.get("text", "")))
            elif part.get("type") == "image":
                images.append(ToolImage(base64.b64decode(part["data"]), str(part.get("mimeType")), tool))
            else:
                texts.append(compact_json(part))
        if not texts and not images and "structuredContent" in result:
            texts.append(compact_json(result["structuredContent"]))
        return ToolResult("\n".join(texts), tuple(images), error=bool(result.get("isError")))

    def _request(
        self, method: str, params: Mapping[str, Any], seconds: float, *, version: str | None = None
    ) -> dict[str, Any]:
        if (version or self.version) == STATELESS:
            meta = {
                f"{_META}protocolVersion": STATELESS,
                f"{_META}clientInfo": _CLIENT,
                f"{_META}clientCapabilities": {},
            }
            params = {**params, "_meta": meta}
        answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        with self._lock:
            if self._ended:
                raise McpError(f"the MCP server {self.server.name!r} has ended")
            self._next_id += 1
            request_id = self._next_id
            self._waiting[request_id] = answers
        try:
            self._send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
            answer = answers.get(timeout=seconds)
        except queue.Empty:
            cancelled = {"requestId": request_id, "reason": "timeout"}
            self._send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled})
            raise McpError(
                f"the MCP server {self.server.name!r} did not answer {method} within {seconds:g} seconds"
            ) from None
        finally:
            with self._lock:
                del self._waiting[request_id]
        if "error" in answer:
            error = answer["error"]
            text = error.get("message") if isinstance(error, dict) else error
            raise McpError(f"the MCP server {self.server.name!r} answers {method} with: {text}")
        result = answer.get("result")
        return result if isinstance(result, dict) else {}

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None, "the pipe was asked for"
        try:
            with self._lock:
                self._process.stdin.write(compact_json(message).encode() + b"\n")
                self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise McpError(f"the MCP server {self.server.name!r} has ended") from None

    def _read(self) -> None:
        """Hands answers to those who wait; requests of the server are refused, notifications ignored."""
        assert self._process.stdout is not None, "the pipe was asked for"
        while line := self._process.stdout.readline(MAX_LINE):
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                log.debug("%s writes what is no JSON: %r", self.server.name, line[:200])
                continue
            if not isinstance(message, dict):
                continue
            if "method" in message and "id" in message:
                refusal = {"code": -32601, "message": "this client takes no requests"}
                self._answer({"jsonrpc": "2.0", "id": message["id"], "error": refusal})
                continue
            with self._lock:
                waiting = self._waiting.get(message.get("id", -1))
            if waiting is not None:
                waiting.put(message)
        with self._lock:
            self._ended = True  # whoever asks from now on is told at once
            waiting_now = list(self._waiting.values())
        for each in waiting_now:
            each.put({"error": {"message": "the server has ended"}})

    def _answer(self, message: Mapping[str, Any]) -> None:
        try:
            self._send(message)
        except McpError as error:
            log.debug("%s", error)
