"""A small MCP server over stdio, for tests: `python mcp_server.py stateless|handshake|silent|broken`."""

import json
import os
import sys
from typing import Any

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # 1 x 1 PNG
TOOLS = [
    {
        "name": "add",
        "description": "Adds two numbers.",
        "inputSchema": {
            "type": "object",
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
            "required": ["a", "b"],
        },
        "annotations": {"readOnlyHint": True},
    },
    {"name": "picture", "inputSchema": {"type": "object", "properties": {}}},
    {"name": "fail", "inputSchema": {"type": "object", "properties": {}}},
    {"name": "leave", "inputSchema": {"type": "object", "properties": {}}},
    {"name": "environment", "inputSchema": {"type": "object", "properties": {}}},
]
mode = ""
initialized = False


class Fault(Exception):
    pass


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if name == "add":
        return {"content": [{"type": "text", "text": str(arguments["a"] + arguments["b"])}]}
    if name == "picture":
        return {"content": [{"type": "image", "data": PIXEL, "mimeType": "image/png"}]}
    if name == "environment":
        return {"content": [{"type": "text", "text": " ".join(sorted(os.environ))}]}
    if name == "leave":
        sys.exit(3)
    return {"content": [{"type": "text", "text": "it went wrong"}], "isError": True}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    global initialized
    if mode == "stateless":
        meta = params["_meta"]
        if meta["io.modelcontextprotocol/protocolVersion"] != "2026-07-28" or method == "initialize":
            raise Fault("Unsupported protocol version")
        assert "io.modelcontextprotocol/clientCapabilities" in meta
    elif method == "initialize":
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": {}}
    elif not initialized:
        raise Fault("not initialized")
    if method == "server/discover":
        return {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "serverInfo": {"name": "small"}}
    if method == "tools/list":  # two pages
        return {"tools": TOOLS[2:]} if params.get("cursor") == "more" else {"tools": TOOLS[:2], "nextCursor": "more"}
    if method == "tools/call":
        return call(params["name"], params["arguments"])
    raise Fault(f"Method not found: {method}")


def main() -> None:
    global initialized, mode
    mode = sys.argv[1]
    if mode == "broken":
        write("this is not JSON")
        sys.exit(1)
    for line in sys.stdin:
        request = json.loads(line)
        if "method" not in request:  # an answer to our own request
            continue
        if "id" not in request:
            initialized = initialized or request["method"] == "notifications/initialized"
            continue
        if mode == "silent" and request["method"] == "server/discover":
            continue
        write("a log line that does not belong here")
        write(json.dumps({"jsonrpc": "2.0", "id": "s1", "method": "sampling/createMessage", "params": {}}))
        try:
            reply = {"result": answer(request["method"], request["params"]) | {"resultType": "complete"}}
        except Fault as fault:
            reply = {"error": {"code": -32601, "message": str(fault)}}
        write(json.dumps({"jsonrpc": "2.0", "id": request["id"], **reply}))


if __name__ == "__main__":
    main()
