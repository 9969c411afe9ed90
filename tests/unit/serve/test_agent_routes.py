"""/v1/responses and /v1/messages: the same model, asked as codex and Claude Code ask it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

import aquila
from aquila.chat.toolspec import ToolSpec
from aquila.serve.app import create_app
from aquila.serve.server import Server
from aquila.serve.settings import Settings
from parts import tiny_checkpoint
from tool_parts import TEXT2IMAGE

pytest.importorskip("llguidance", reason="forced calls need llguidance")
# Few choices: a model with random weights would fill a free string until its tokens are used up.
CITY, DAYS = {"type": "string", "enum": ["Paris", "北京"]}, {"type": "integer", "enum": [1, 2]}
SCHEMA = {"type": "object", "properties": {"city": CITY, "days": DAYS}, "required": ["city", "days"]}
WEATHER = ToolSpec("get_weather", {"en": "Tells the weather."}, SCHEMA)
MESSAGE_TOOL = {"name": WEATHER.name, "description": "Weather.", "input_schema": dict(WEATHER.parameters)}
RESPONSE_TOOL = {"type": "function", **WEATHER.to_openai()["function"], "strict": False}
DRAWING_TOOL = {"type": "function", **TEXT2IMAGE.to_openai()["function"]}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("agents") / "tiny", max_position_embeddings=1024)
    server = Server(Settings())
    server.become_ready(aquila.load(folder))
    with TestClient(create_app(server), base_url="http://127.0.0.1:8000") as client:
        yield client
    server.stop()


def events_of(text: str) -> list[dict[str, Any]]:
    """Events of a stream; the name of each is the type of its data."""
    events = []
    for block in text.split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def ask(client: TestClient, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return events_of(response.text) if body.get("stream") else response.json()


RESPONSE = {"input": "Say something.", "temperature": 0, "max_output_tokens": 12}
FORCED_RESPONSE = {
    "instructions": "Be helpful.",
    "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]}],
    "tools": [RESPONSE_TOOL, {"type": "web_search"}],
    "tool_choice": {"type": "function", "name": WEATHER.name},
    "temperature": 0,
    "max_output_tokens": 100,
}
MESSAGE = {"messages": [{"role": "user", "content": "Say something."}], "temperature": 0, "max_tokens": 12}
FORCED_MESSAGE = {
    "system": [{"type": "text", "text": "Be helpful.", "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Weather?"}]}],
    "tools": [MESSAGE_TOOL, {"type": "web_search_20250305", "name": "web_search"}],
    "tool_choice": {"type": "tool", "name": WEATHER.name},
    "temperature": 0,
    "max_tokens": 100,
}


def test_a_response_is_the_chat_s_answer_in_another_shape(client: TestClient) -> None:
    chat = {"messages": [{"role": "user", "content": "Say something."}], "temperature": 0, "max_tokens": 12}
    expected = ask(client, "/v1/chat/completions", **chat)
    answer = ask(client, "/v1/responses", **RESPONSE)
    (item,) = answer["output"]
    assert item["content"][0]["text"] == expected["choices"][0]["message"]["content"]
    assert answer["status"] == {"length": "incomplete", "stop": "completed"}[expected["choices"][0]["finish_reason"]]
    assert answer["usage"]["output_tokens"] == expected["usage"]["completion_tokens"]


@pytest.mark.parametrize("body", [RESPONSE, FORCED_RESPONSE], ids=["text", "call"])
def test_a_streamed_response_adds_up_to_the_whole_one(client: TestClient, body: dict) -> None:
    whole = ask(client, "/v1/responses", **body)
    events = ask(client, "/v1/responses", **body, stream=True)
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    assert [each["type"] for each in events[:3]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
    ]
    last = events[-1]
    assert last["type"] == f"response.{whole['status']}"
    (item,), (streamed,) = whole["output"], last["response"]["output"]
    keys = ("name", "arguments") if item["type"] == "function_call" else ("content",)
    assert [item[key] for key in keys] == [streamed[key] for key in keys]
    kind = "function_call_arguments" if item["type"] == "function_call" else "output_text"
    deltas = "".join(each["delta"] for each in events if each["type"] == f"response.{kind}.delta")
    assert deltas == (item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"])
    assert events[-2] == {**events[-2], "type": "response.output_item.done", "item": streamed}


def test_a_forced_call_of_a_response_is_valid_and_can_be_answered(client: TestClient) -> None:
    answer = ask(client, "/v1/responses", **FORCED_RESPONSE)
    (call,) = answer["output"]
    assert (call["type"], call["name"], call["status"]) == ("function_call", WEATHER.name, "completed")
    assert set(json.loads(call["arguments"])) == {"city", "days"}
    follow_up = [
        *FORCED_RESPONSE["input"],
        {"type": "reasoning", "summary": []},
        call,
        {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"},
    ]
    body = {**FORCED_RESPONSE, "input": follow_up, "tool_choice": "auto", "max_output_tokens": 4}
    again = ask(client, "/v1/responses", **body)
    assert again["usage"]["input_tokens"] > answer["usage"]["input_tokens"]


def test_a_format_is_followed(client: TestClient) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    text = {"format": {"type": "json_schema", "name": "number", "schema": schema}}
    answer = ask(client, "/v1/responses", input="A number.", text=text, max_output_tokens=50)
    assert json.loads(answer["output"][0]["content"][0]["text"])["n"] in (1, 2)


@pytest.mark.parametrize("body", [MESSAGE, FORCED_MESSAGE], ids=["text", "call"])
def test_a_streamed_message_adds_up_to_the_whole_one(client: TestClient, body: dict) -> None:
    whole = ask(client, "/v1/messages?beta=true", **body)
    events = ask(client, "/v1/messages?beta=true", **body, stream=True)
    assert events[0]["type"] == "message_start"
    assert events[0]["message"]["content"] == []
    assert [each["type"] for each in events[-2:]] == ["message_delta", "message_stop"]
    assert events[-2]["delta"]["stop_reason"] == whole["stop_reason"]
    assert events[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    blocks: list[dict] = []
    fragments = ""
    for each in events:
        if each["type"] == "content_block_start":
            assert each["index"] == len(blocks)
            blocks.append(each["content_block"])
        elif each["type"] == "content_block_delta" and each["delta"]["type"] == "text_delta":
            blocks[-1]["text"] += each["delta"]["text"]
        elif each["type"] == "content_block_delta":
            fragments += each["delta"]["partial_json"]
    if fragments:
        blocks[-1]["input"] = json.loads(fragments)
    for block in (*blocks, *whole["content"]):
        block.pop("id", None)
    assert blocks == whole["content"]


def test_a_forced_call_of_a_message_can_be_answered(client: TestClient) -> None:
    answer = ask(client, "/v1/messages", **FORCED_MESSAGE)
    assert answer["stop_reason"] == "tool_use"
    (call,) = answer["content"]
    assert (call["type"], call["name"]) == ("tool_use", WEATHER.name)
    assert set(call["input"]) == {"city", "days"}
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "rain"}]}
    messages = [
        *FORCED_MESSAGE["messages"],
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, call]},
        {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]},
    ]
    body = {**FORCED_MESSAGE, "messages": messages, "tool_choice": {"type": "auto"}, "max_tokens": 4}
    again = ask(client, "/v1/messages", **body)
    counted = ask(client, "/v1/messages/count_tokens", **{key: body[key] for key in ("system", "messages", "tools")})
    usage = again["usage"]
    assert counted == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


def test_a_call_in_the_special_instruction_form_reaches_both(client: TestClient) -> None:
    """text2image has a plain text body; its arguments are JSON all the same."""
    body = {**FORCED_RESPONSE, "tools": [DRAWING_TOOL], "tool_choice": "required", "max_output_tokens": 30}
    (call,) = ask(client, "/v1/responses", **body)["output"]
    assert list(json.loads(call["arguments"])) == ["prompt"]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/responses", {"input": [{"type": "item_reference", "id": "x"}]}, 400, "items of type 'item_reference'"),
        ("/v1/responses", {"input": "x", "previous_response_id": "resp_1"}, 400, "responses are not kept here"),
        (
            "/v1/responses",
            {"input": "x", "tools": [{"type": "file_search"}], "tool_choice": {"type": "file_search"}},
            400,
            "tools of type 'file_search' are not run here",
        ),
        (
            "/v1/responses",
            {"input": "x", "tools": [{"type": "web_search"}], "tool_choice": "required"},
            400,
            "tools of type web_search are not run here",
        ),
        ("/v1/responses", {"input": "x", "model": "gpt-9"}, 404, "is not served here"),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, 400, "'input_image'"),
        ("/v1/responses", {"input": [{"role": "judge", "content": "x"}]}, 400, "role"),
        ("/v1/messages", {**MESSAGE, "model": "gpt-9"}, 404, "is not served here"),
        (
            "/v1/messages",
            {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "image"}]}]},
            400,
            "messages[0].content[0]: a block of type 'image' cannot be read",
        ),
        (
            "/v1/messages",
            {**FORCED_MESSAGE, "tool_choice": {"type": "tool", "name": "x"}},
            400,
            "no tool is called 'x'",
        ),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content"),
    ],
)
def test_what_cannot_be_answered_is_named(client: TestClient, path: str, body: dict, status: int, message: str) -> None:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    assert message in response.json()["error"]["message"]
    if path.startswith("/v1/messages"):
        assert response.json()["type"] == "error"


def test_tools_that_are_not_run_here_are_named(client):
    """codex sends some unasked: they are no error, and nobody has to guess that they are not there."""
    body = {"model": "tiny", "input": "x", "max_output_tokens": 1}
    tools = [{"type": "web_search"}, RESPONSE_TOOL, {"type": "image_generation"}, {"type": "web_search"}]
    found = client.post("/v1/responses", json={**body, "tools": tools}).json()
    assert found["ignored_tools"] == ["web_search", "image_generation"]
    assert [tool["name"] for tool in found["tools"]] == [WEATHER.name]
    assert "ignored_tools" not in client.post("/v1/responses", json={**body, "tools": [RESPONSE_TOOL]}).json()
