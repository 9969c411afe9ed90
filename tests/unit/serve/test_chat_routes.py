"""/v1/chat/completions through the openai client, as its users call it."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from serve_parts import running

QUESTION = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server():
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=30) as found:
        yield found


def ask(client, messages=QUESTION, **options):
    return client.chat.completions.create(model="tiny", messages=messages, **{"max_tokens": 12, **options})


def test_models_are_listed(client):
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.models.retrieve("other")


def test_a_stream_joined_is_the_answer(client):
    whole = ask(client, temperature=0, n=2, seed=1)
    chunks = list(ask(client, temperature=0, n=2, seed=1, stream=True, stream_options={"include_usage": True}))
    assert whole.usage.completion_tokens == chunks[-1].usage.completion_tokens
    assert chunks[-1].choices == []
    for choice in whole.choices:
        parts = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert parts[0].delta.role == "assistant"
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        assert parts[-1].finish_reason == choice.finish_reason


def test_logprobs_have_bytes(client):
    answer = ask(client, temperature=0, logprobs=True, top_logprobs=3).choices[0]
    entries = answer.logprobs.content
    assert len(entries) >= 2
    assert all(len(entry.top_logprobs) == 3 and entry.top_logprobs[0].token == entry.token for entry in entries)
    streamed = ask(client, temperature=0, logprobs=True, top_logprobs=3, stream=True)
    found = [entry for chunk in streamed for c in chunk.choices if c.logprobs for entry in c.logprobs.content]
    assert [entry.token for entry in found] == [entry.token for entry in entries]


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_schema_gives_json_that_follows_it(client, temperature):
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    answer = ask(client, response_format=form, max_tokens=200, temperature=temperature, seed=3).choices[0]
    value = json.loads(answer.message.content)
    assert set(value) == {"name", "age"}
    assert 0 <= value["age"] <= 99
    assert answer.finish_reason == "stop"


def test_json_object_gives_an_object(client):
    """Random weights would write for ever, so the end is made likely."""
    answer = ask(
        client, response_format={"type": "json_object"}, max_tokens=60, temperature=0, logit_bias={str(ord("}")): 1}
    )
    content = answer.choices[0].message.content
    assert content.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)


def test_a_forced_call_is_a_call(client):
    options = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 200, "temperature": 1, "seed": 2}
    answer = ask(client, parallel_tool_calls=False, **options).choices[0]
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Paris", "Rome")
    streamed = list(ask(client, parallel_tool_calls=False, stream=True, **options))
    deltas = [c.delta.tool_calls[0] for chunk in streamed for c in chunk.choices if c.delta.tool_calls]
    assert deltas[0].function.name == "get_weather"
    assert deltas[0].id
    assert json.loads("".join(delta.function.arguments for delta in deltas)) == arguments
    assert streamed[-1].choices[0].finish_reason == "tool_calls"


def test_a_call_and_its_result_go_back(client):
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Rome","days":1}'},
    }
    messages = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    assert ask(client, messages, tools=[TOOL]).choices[0].finish_reason


def test_messages_of_all_kinds_are_one_conversation(server):
    """Parts, developer messages and neighbours of one role read like the plain conversation."""
    plain = [{"role": "system", "content": "Be brief.\n\nBe kind."}, {"role": "user", "content": "Hello\n\nthere"}]
    odd = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "Hello"},
        {"role": "user", "content": [{"type": "text", "text": "there"}]},
    ]
    prompts = [server.post("/apply-template", {"messages": each}).json()["prompt"] for each in (plain, odd)]
    assert prompts[0] == prompts[1]


def test_a_picture_is_refused(server):
    picture = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    response = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": [picture]}]})
    assert response.status_code == 400
    assert "this model reads text only" in response.json()["error"]["message"]


def test_an_answer_that_has_begun_goes_on(server, client):
    whole = ask(client, temperature=0, max_tokens=10).choices[0].message.content
    begun = [*QUESTION, {"role": "assistant", "content": "Hi"}]
    prompt = server.post("/apply-template", {"messages": QUESTION}).json()["prompt"] + " Hi"
    raw = server.post("/v1/completions", {"prompt": prompt, "temperature": 0, "max_tokens": 10, "stop": "###"}).json()
    assert ask(client, begun, temperature=0, max_tokens=10).choices[0].message.content == raw["choices"][0]["text"]
    assert isinstance(whole, str)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "the conversation has no user message"),
        ({"messages": QUESTION, "tool_choice": "required"}, "tool_choice: there are no tools to choose from"),
        (
            {"messages": QUESTION, "tools": [TOOL], "tool_choice": {"function": {"name": "nope"}}},
            "no tool is called 'nope'",
        ),
        ({"messages": QUESTION, "tools": [{"x": 1}]}, "tools"),
        ({"messages": QUESTION, "top_logprobs": 50}, "top_logprobs"),
        (
            {
                "messages": QUESTION,
                "tools": [TOOL],
                "tool_choice": "required",
                "response_format": {"type": "json_object"},
            },
            "a call is forced",
        ),
        ({"messages": QUESTION, "response_format": {"type": "json_schema"}}, "needs json_schema.schema"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "maximum context length is 1024 tokens"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_wrong_is_said(server, body, message):
    for stream in (False, True):
        response = server.post("/v1/chat/completions", {**body, "stream": stream})
        assert response.status_code == 400, response.text
        assert message in response.json()["error"]["message"]


def test_an_unsatisfiable_schema_is_an_error_of_the_request(client):
    schema = {"type": "object", "properties": {"a": False}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="Unsatisfiable schema"):
        ask(client, response_format=form)


def test_conversations_never_mix(client):
    """Many at once get what each gets alone."""
    questions = [[{"role": "user", "content": f"print({i}, 'hello world')"}] for i in range(6)]

    def answer(messages):
        return ask(client, messages, temperature=1, seed=7, max_tokens=15).choices[0].message.content

    alone = [answer(each) for each in questions]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(answer, questions))
    assert together == alone
    assert len(set(alone)) == 6
