"""FlagAI's routes: a JSON string that holds JSON, as its clients send it."""

import json

import pytest

from serve_parts import running

BODY = {"prompt": "def push(self", "max_new_tokens": 12, "temperature": 0.9, "top_p": 0.95, "top_k_per_token": 1000}


@pytest.fixture(scope="module")
def server():
    with running(legacy_flagai=True) as found:
        yield found


def test_func_takes_json_in_json(server):
    twice = server.post("/func", json.dumps({**BODY, "seed": 7})).json()
    once = server.post("/func", {**BODY, "seed": 7}).json()
    assert twice == once
    (completion,) = twice["completions"]
    assert completion["model_in"] == BODY["prompt"]
    assert len(completion["tokens"]) == len(completion["logprobs"]) == len(completion["top_logprobs_dicts"]) <= 12
    assert all(0 <= each <= 1 for each in completion["logprobs"])
    assert twice["input_length"] == len(BODY["prompt"])
    assert twice["model_info"] == "tiny"


def test_a_stream_is_plain_text_and_the_same(server):
    response = server.post("/stream_func", json.dumps(BODY))
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text == server.post("/func", BODY).json()["completions"][0]["text"]


def test_a_conversation_goes_through_the_template(server):
    asked = {**BODY, "sft": True, "prompt": "And now?", "history": [["USER", "Hello"], ["ASSISTANT", "Hi"]]}
    assert server.post("/func", asked).json()["completions"][0]["model_in"] == "And now?"
    broken = server.post("/func", {**asked, "history": [["ASSISTANT", "Hi"]]})
    assert broken.status_code == 400


def test_the_editor_extensions_body(server):
    asked = {
        "ability": "seo_article_creation",
        "context": "def push(",
        "max_seq_len": 5,
        "len_penalty": 1.0,
        "top_k": 0,
    }
    generated = server.post("/func", asked).json()
    assert set(generated) == {"generated"}


@pytest.mark.parametrize(
    "body", ["no json", json.dumps([1]), {"prompt": 5}, {}, 7, {"prompt": "x", "seed": -1}], ids=str
)
def test_what_is_wrong_is_said(server, body):
    response = server.post("/func", body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_without_the_option_it_is_not_there():
    with running() as server:
        assert server.post("/func", BODY).status_code == 404
