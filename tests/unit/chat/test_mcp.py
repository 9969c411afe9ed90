"""The MCP client, against a real server in a process of its own, in both protocols."""

import json
import sys
from pathlib import Path

import pytest

from aquila.chat import mcp
from aquila.chat.mcp import McpError, McpServer, read_servers
from aquila.chat.tool_runner import ToolRunner
from aquila.chat.tools.registry import ToolBox, ToolSettings, tool_names
from aquila.errors import ConfigError

SERVER = Path(__file__).parents[2] / "mcp_server.py"


def server(mode: str) -> McpServer:
    return McpServer("small", sys.executable, (str(SERVER), mode), {"SECRET_OF_SERVER": "1"})


@pytest.mark.parametrize(("mode", "version"), [("stateless", "2026-07-28"), ("handshake", "2025-11-25")])
def test_tools_are_listed_and_called_in_both_protocols(mode: str, version: str) -> None:
    with server(mode).connect() as client:
        assert client.version == version
        tools = client.tools()
        runner = ToolRunner(tools, confirm=lambda tool, arguments: True)
        assert [tool.name for tool in tools] == [
            f"small_{n}" for n in ("add", "picture", "fail", "leave", "environment")
        ]
        assert runner.run("small_add", {"a": 1, "b": 2}).text == "3"
        failed = runner.run("small_fail", {})
        assert failed.error
        assert failed.text == "it went wrong"
        assert runner.run("small_add", {"a": "1", "b": 2}).text == 'small_add: a must be a number, not "1"'


def test_a_server_sees_only_the_environment_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "1")
    with server("stateless").connect() as client:
        names = client.call("environment", {}).text.split()
    assert "SECRET_OF_SERVER" in names
    assert "SECRET_OF_OURS" not in names


def test_pictures_of_a_server_get_an_id() -> None:
    pytest.importorskip("PIL", reason="pictures need Pillow")
    with server("stateless").connect() as client:
        runner = ToolRunner(client.tools(), confirm=lambda tool, arguments: True)
        (image,) = runner.run("small_picture", {}).images
    assert runner.images.resolve(image.id).data == image.data


def test_an_old_server_that_waits_for_its_handshake_is_spoken_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp, "DISCOVER_SECONDS", 0.05)
    with server("silent").connect() as client:
        assert client.version == "2025-11-25"
        assert client.call("add", {"a": 1, "b": 1}).text == "2"


def test_a_server_that_leaves_is_an_error_and_not_a_hang() -> None:
    with server("stateless").connect() as client:
        runner = ToolRunner(client.tools(), confirm=lambda tool, arguments: True)
        assert "has ended" in runner.run("small_leave", {}).text
        assert "has ended" in runner.run("small_add", {"a": 1, "b": 2}).text


@pytest.mark.parametrize(
    ("command", "message"),
    [(("/nowhere/at/all",), "cannot be started"), ((sys.executable, str(SERVER), "broken"), "ended")],
)
def test_a_server_that_does_not_start_says_so(command: tuple[str, ...], message: str) -> None:
    with pytest.raises(McpError, match=message):
        McpServer("small", command[0], command[1:]).connect()


def test_servers_and_their_tools_are_asked_for_by_name(tmp_path: Path) -> None:
    config = tmp_path / "mcp.json"
    entry = {"command": sys.executable, "args": [str(SERVER), "stateless"]}
    config.write_text(json.dumps({"mcpServers": {"small": entry}}))
    settings = ToolSettings(mcp_config=config)
    assert tool_names(settings)["small"] == "MCP server"
    with ToolBox(["small_add", "calculator"], settings) as box:
        assert [tool.name for tool in box.tools] == ["small_add", "calculator"]
    with pytest.raises(ConfigError, match="has no tool 'small_ad'; did you mean 'small_add'"):
        ToolBox(["small_ad"], settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be"),
        ('{"mcpServers": {"a b": {"command": "x"}}}', "name a server with a letter"),
        ('{"mcpServers": {"a": {"url": "http://x"}}}', "needs a command"),
        ('{"mcpServers": {"a": {"command": "x", "args": "y"}}}', "args must be a list"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_servers(path)
    assert str(path) in str(caught.value)
