"""An HTTP server on loopback that misbehaves on command, and a hub built on it."""

import hashlib
import json
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Act:
    """How one request is answered; what is not given is honest."""

    status: int | None = None  # answer with this status and nothing else
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None  # close the connection after so many bytes of the body
    say_length: int | None = None  # claim this Content-Length
    ignore_range: bool = False
    range_start: int | None = None  # answer a Range request from another place than asked
    flip: int | None = None  # invert the byte at this offset of the reply
    hold: threading.Event | None = None  # wait for this before the second half of the body
    no_length: bool = False


@dataclass
class Loopback:
    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    script: deque[Act] = field(default_factory=deque)  # one Act is used up by each request for a file
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def ranges(self) -> list[str | None]:
        """The Range header of each request for a file, in order."""
        return [headers.get("range") for path, headers in self.requests if not path.startswith("/api/")]

    def add_hugging_face(self, repo: str, contents: dict[str, bytes], commit: str = "c0ffee") -> None:
        """Publishes a repository the way Hugging Face does: weights carry a sha256, small files do not."""
        siblings = []
        for name, data in contents.items():
            digest = {"sha256": hashlib.sha256(data).hexdigest()}
            lfs = digest if name.endswith((".bin", ".safetensors", ".gguf")) else None
            siblings.append({"rfilename": name, "size": len(data), "lfs": lfs})
            self.files[f"/{repo}/resolve/{commit}/{name}"] = data
        reply = {"sha": commit, "siblings": siblings, "private": False}
        self.files[f"/api/models/{repo}/revision/main?blobs=true"] = json.dumps(reply).encode()

    def add_modelscope(self, repo: str, contents: dict[str, bytes]) -> None:
        files = [{"Path": "assets", "Size": 0, "Sha256": "", "Type": "tree"}]
        for name, data in contents.items():
            digest = hashlib.sha256(data).hexdigest()
            files.append({"Path": name, "Size": len(data), "Sha256": digest, "Type": "blob"})
            self.files[f"/models/{repo}/resolve/master/{name}"] = data
        reply = {"Code": 200, "Data": {"Files": files}}
        self.files[f"/api/v1/models/{repo}/repo/files?Revision=master&Recursive=true"] = json.dumps(reply).encode()


@contextmanager
def http_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    """On a free port of loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = False  # server_close() waits for them, so no socket outlives the test
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serve() -> Iterator[Loopback]:
    with http_server(_Handler) as server:
        server.loopback = Loopback(f"http://127.0.0.1:{server.server_port}")
        yield server.loopback


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test output clean."""

    def do_GET(self) -> None:
        loopback: Loopback = self.server.loopback
        headers = {name.lower(): value for name, value in self.headers.items()}
        loopback.requests.append((self.path, headers))
        data = loopback.files.get(self.path, loopback.files.get(self.path.partition("?")[0]))
        if data is None:
            self._answer(404, {})
        elif self.path.startswith("/api/"):
            self._answer(200, {"Content-Length": str(len(data))}, data)
        else:
            self._send_file(data, headers, loopback.script.popleft() if loopback.script else Act())

    def _send_file(self, data: bytes, asked: dict[str, str], act: Act) -> None:
        if act.status is not None:
            self._answer(act.status, act.headers)
            return
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        start, status = 0, 200
        headers = {"ETag": etag, **act.headers}
        match = re.fullmatch(r"bytes=(\d+)-", asked.get("range", ""))
        unchanged = asked.get("if-range", etag) == etag
        if match and unchanged and not act.ignore_range:
            start = int(match[1]) if act.range_start is None else act.range_start
            if start >= len(data):
                self._answer(416, {"Content-Range": f"bytes */{len(data)}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = bytearray(data[start:])
        if not act.no_length:
            headers["Content-Length"] = str(len(body) if act.say_length is None else act.say_length)
        if act.flip is not None:
            body[act.flip] ^= 0xFF
        self._answer(status, headers, bytes(body[: act.drop_after]), act.hold)

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes = b"", hold: threading.Event | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        middle = len(body) // 2 if hold else len(body)
        self._write(body[:middle])
        if hold:
            hold.wait(60)
            self._write(body[middle:])

    def _write(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client went away, which some tests want
