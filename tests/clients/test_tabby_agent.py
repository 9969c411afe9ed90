"""Tabby's own agent, the language server behind its plug-ins for editors: from keys in a document to a suggestion."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
from client_parts import Server, environment, program

BEFORE, AFTER = "def sum_prices(prices):\n    width = 0\n    ", "\n        width += price\n    return width\n"
CONFIG = """\
[server]
endpoint = "{url}"
token = "none"

[anonymousUsageTracking]
disable = true
"""


def test_a_suggestion_in_a_document(fim_server: Server, home: Path) -> None:
    """It is what the server fills in, as far as the agent shows it."""
    folder = home / ".tabby-client" / "agent"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(CONFIG.format(url=fim_server.url), encoding="utf-8")
    body = {"language": "python", "segments": {"prefix": BEFORE, "suffix": AFTER}}
    filled = httpx.post(f"{fim_server.v1}/completions", json=body, timeout=60).json()["choices"][0]["text"]
    agent = program("tabby-agent", "node_modules/.bin")
    command = [str(agent), "--lsp", "--stdio"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(home)
    ) as process:
        try:
            items = _ask(process)
        finally:
            process.kill()
    assert items, "the agent suggests nothing"
    [text] = [item["textEdit"]["newText"] for item in items]
    assert text.strip()
    assert text.strip() in filled


def _ask(process: "subprocess.Popen[bytes]") -> list[dict[str, Any]]:
    document = {"uri": "file:///a.py", "languageId": "python", "version": 1, "text": BEFORE + AFTER}
    place = {"textDocument": {"uri": document["uri"]}, "position": {"line": 2, "character": 4}}
    opened = {"textDocument": {"completion": {}}}
    _request(process, 1, "initialize", {"processId": None, "rootUri": None, "capabilities": opened})
    _send(process, {"method": "initialized", "params": {}})
    _send(process, {"method": "textDocument/didOpen", "params": {"textDocument": document}})
    return _request(process, 2, "textDocument/completion", place | {"context": {"triggerKind": 1}})["items"]


def _request(process: "subprocess.Popen[bytes]", number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
    _send(process, {"id": number, "method": method, "params": params})
    while True:
        message = _hear(process)
        if message.get("id") == number and "method" not in message:
            assert "result" in message, message
            return message["result"]
        if "id" in message:  # a question of the agent: there is nothing to tell it
            _send(process, {"id": message["id"], "result": None})


def _send(process: "subprocess.Popen[bytes]", message: dict[str, Any]) -> None:
    assert process.stdin is not None
    data = json.dumps({"jsonrpc": "2.0", **message}).encode()
    process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(data) + data)
    process.stdin.flush()


def _hear(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    assert process.stdout is not None
    length = 0
    while (line := process.stdout.readline()).strip():
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    return json.loads(process.stdout.read(length))
