"""/aquila/tools: running tools for the page, and nobody else."""

import base64
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

import harmful_tools
from aquila.chat.tool_runner import ToolRunner
from aquila.chat.tools.declare import spec_of
from aquila.errors import ConfigError
from aquila.serve.app import create_app
from aquila.serve.server import Server
from aquila.serve.settings import Settings
from aquila.serve.tool_service import ToolService
from mcp_server import PIXEL

HOME = "http://127.0.0.1:8000"


def client_of(settings: Settings) -> TestClient:
    server = Server(settings)
    if settings.tools:
        server.tools = ToolService(settings)
    return TestClient(create_app(server), base_url=HOME)


@pytest.fixture
def client() -> Iterator[TestClient]:
    with client_of(Settings(tools=("calculator", "text2image"), cors_origins=("https://elsewhere.example",))) as client:
        yield client


def run(client: TestClient, name: str, arguments: dict, **more: object) -> dict:
    response = client.post("/aquila/tools/run", json={"name": name, "arguments": arguments, **more})
    assert response.status_code == 200, response.text
    return response.json()


def test_the_page_lists_and_runs_what_the_command_line_named(client: TestClient) -> None:
    cards = client.get("/aquila/tools").json()["tools"]
    assert [card["name"] for card in cards] == ["calculator", "text2image"]
    assert cards[0]["description"]["zh"].startswith("计算")
    assert run(client, "calculator", {"expression": "6*7"}) == {"ok": True, "content": "42", "images": []}
    wrong = run(client, "calculator", {"expression": "6*"})
    assert not wrong["ok"]
    assert "not an arithmetic expression" in wrong["error"]["message"]
    assert "no tool is called 'datetime'" in run(client, "datetime", {})["error"]["message"]


def test_without_an_image_model_there_is_advice_and_no_picture(client: TestClient) -> None:
    answer = run(client, "text2image", {"prompt": "a cat"})
    assert not answer["ok"]
    assert "images" not in answer
    assert "hf download" in answer["error"]["message"]


def test_a_tool_with_permissions_needs_the_user_s_word(client: TestClient) -> None:
    service = client.app.state.server.tools
    service._runner = ToolRunner([spec_of(harmful_tools.Counter, name="counter", source="harmful_tools:Counter")])
    asked = run(client, "counter", {"end": 2})
    assert (asked["ok"], asked["confirm"]) == (False, ["write"])
    assert run(client, "counter", {"end": 2}, confirmed=True)["content"] == "[1,2]"


def test_pictures_come_with_the_request_or_by_id(client: TestClient) -> None:
    pytest.importorskip("PIL", reason="pictures need Pillow")
    service = client.app.state.server.tools
    service._runner = ToolRunner([spec_of(harmful_tools.size_of, source="harmful_tools:size_of")])
    uri = f"data:image/png;base64,{PIXEL}"
    size = str(len(base64.b64decode(PIXEL)))
    assert run(client, "size_of", {}, images=[uri])["content"] == size
    for wrong in ("/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:8000/health"):
        assert "not read" in run(client, "size_of", {"image": wrong})["error"]["message"]


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "http://127.0.0.1:9999", "null"])
def test_no_other_page_runs_tools_not_even_one_that_may_ask_the_model(client: TestClient, origin: str) -> None:
    body = {"name": "calculator", "arguments": {"expression": "1"}}
    assert client.post("/aquila/tools/run", json=body, headers={"origin": origin}).status_code == 403
    assert client.get("/aquila/tools", headers={"origin": origin}).status_code == 403
    assert client.post("/aquila/tools/run", json=body, headers={"origin": HOME}).status_code == 200


def test_a_form_cannot_run_tools(client: TestClient) -> None:
    response = client.post(
        "/aquila/tools/run", content='{"name": "calculator"}', headers={"content-type": "text/plain"}
    )
    assert response.status_code == 415


def test_without_tools_there_are_none() -> None:
    with client_of(Settings()) as client:
        assert client.get("/aquila/tools").json() == {"tools": []}
        response = client.post("/aquila/tools/run", json={"name": "calculator"})
        assert response.status_code == 404
        assert "start it with --tools" in response.json()["error"]["message"]


def test_a_key_guards_them_and_an_open_server_needs_one() -> None:
    with client_of(Settings(tools=("calculator",), api_keys=("secret",))) as client:
        assert client.get("/aquila/tools").status_code == 401
        assert client.get("/aquila/tools", headers={"authorization": "Bearer secret"}).status_code == 200
    with pytest.raises(ConfigError, match="and would run tools here"):
        ToolService(Settings(host="0.0.0.0", tools=("calculator",)))
    with pytest.raises(ConfigError, match="is called 'calculater'; did you mean 'calculator'"):
        ToolService(Settings(tools=("calculater",)))
