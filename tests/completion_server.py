"""A server with OpenAI's routes on loopback, whose answers are made from the prompt, and which fails on command."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import http_server

Reply = tuple[int, dict[str, Any]]


@dataclass
class CompletionServer:
    """`answer` gets a request's body and gives the text; `fail` gets a request's number, from 1 on."""

    url: str = ""
    answer: Callable[[dict[str, Any]], str] = lambda body: f"{body.get('prompt')}/{body['seed']}"
    fail: Callable[[int], Reply | None] = lambda number: None
    bodies: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self.lock:
            self.bodies.append((path, body, headers))
            failed = self.fail(len(self.bodies))
        if failed is not None:
            return failed
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": "tiny"}]}
        if path == "/tokenize":
            return 200, {"tokens": list(body["prompt"].encode())}
        if body.get("echo"):
            logprobs = [None, *(-token / 256 for token in body["prompt"][1:]), 0.0]
            top = [None, *({"x": -0.4} for _ in body["prompt"])]
            return 200, {"choices": [{"logprobs": {"token_logprobs": logprobs, "top_logprobs": top}}]}
        text = self.answer(body)
        said = {"message": {"content": text}} if "messages" in body else {"text": text}
        return 200, {"choices": [{**said, "finish_reason": "length"}], "usage": {"completion_tokens": len(text)}}


@contextmanager
def completion_server() -> Iterator[CompletionServer]:
    with http_server(_Handler) as server:
        server.served = CompletionServer(f"http://127.0.0.1:{server.server_port}")
        yield server.served


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test output clean."""

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: dict[str, Any]) -> None:
        status, reply = self.server.served.reply(self.path, body, {k.lower(): v for k, v in self.headers.items()})
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
