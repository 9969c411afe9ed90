"""A server in a process of its own, what a page asked for, and how the tests talk to it."""

import os
import socket
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from playwright.sync_api import Page

HERE = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
START_SECONDS = 120
GREEDY = """localStorage.getItem("aquila.preferences") ?? localStorage.setItem("aquila.preferences",
  JSON.stringify({ sampling: { temperature: 0, max_tokens: 2000 } }))"""
SETTLED = (
    "!document.body.classList.contains('running') && document.querySelector('article.assistant:last-child .bar button')"
)


class PageServer:
    """A server in a process of its own, on one port for its whole life, that can be killed and started again."""

    def __init__(self, folder: Path, *options: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, str(HERE / "page_server.py"), str(self.port), str(folder), *options]
        self._log = folder / f"server-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "PageServer":
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, cwd=HERE, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        transport = httpx.HTTPTransport(retries=0)
        with httpx.Client(transport=transport, trust_env=False) as client:
            while True:
                assert self._process.poll() is None, self._log.read_text(encoding="utf-8")
                try:
                    if client.get(f"{self.url}/health", timeout=START_SECONDS).status_code == 200:
                        return self
                except httpx.TransportError:
                    pass
                with socket.socket() as waiter:  # gives the process its turn
                    waiter.settimeout(0.05)
                    waiter.connect_ex(("127.0.0.1", self.port))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@dataclass
class Watch:
    """What a page asked for, and what it complained of."""

    origin: str
    urls: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def follow(self, page: "Page") -> None:
        page.on("request", lambda request: self.urls.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._console)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    @property
    def foreign(self) -> list[str]:
        return [url for url in self.urls if not url.startswith((self.origin, "data:", "blob:"))]


def send(page: "Page", text: str, *, wait: bool = True) -> None:
    """Writes a message; waits until the answer and the tools it calls have ended."""
    page.fill("#compose", text)
    page.press("#compose", "Enter")
    if wait:
        settled(page)


def settled(page: "Page") -> None:
    until(page, SETTLED)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")  # it is laid out


def until(page: "Page", condition: str) -> None:
    """Waits for a condition in the page. Playwright's own way evaluates text in the page, which its policy forbids."""
    for _ in range(1000):
        if page.evaluate(f"Boolean({condition})"):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"it did not come to be: {condition}")


def answers(page: "Page") -> list[str]:
    return page.locator("article.assistant .text").all_text_contents()  # a text that is out of sight has no inner text


def png(side: int = 32) -> bytes:
    """A picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\xc0\x90\x60" * side for _ in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
