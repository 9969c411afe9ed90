"""The tokenizer's routes, in both dialects, and lm-eval's own client on them."""

import pytest

from parts import tiny_tokenizer
from serve_parts import running

TEXTS = ["def is_prime(n):", "打印一句问候", "", "a\x00b", "<|endoftext|>"]


@pytest.fixture(scope="module")
def server():
    with running() as found:
        yield found


@pytest.mark.parametrize("text", TEXTS)
def test_there_and_back_in_both_dialects(server, text):
    ids = server.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert server.post("/tokenize", {"content": text}).json()["tokens"] == ids
    back = server.post("/detokenize", {"tokens": ids}).json()
    assert back["prompt"] == back["content"] == text


def test_the_end_of_a_text_is_its_token(server):
    info = server.client.get("/tokenizer_info").json()
    ids = server.post("/tokenize", {"prompt": info["eos_token"], "add_special_tokens": False}).json()["tokens"]
    assert ids == [tiny_tokenizer().eos_token_ids[0]]
    plain = server.post("/tokenize", {"content": info["eos_token"], "parse_special": False}).json()["tokens"]
    assert len(plain) > 1
    assert {"bos_token", "pad_token", "chat_template"} <= set(info)


def test_a_conversation_is_tokenized_as_it_is_answered(server):
    messages = [{"role": "user", "content": "Hello"}]
    ids = server.post("/tokenize", {"messages": messages}).json()["tokens"]
    answer = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1}).json()
    assert answer["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/tokenize", {}, "there is nothing to tokenize"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/apply-template", {"messages": [{"role": "assistant", "content": "x"}]}, "expected 'user'"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(server, path, body, message):
    response = server.post(path, body)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


def test_an_id_beyond_the_vocabulary_is_nothing(server):
    """An embedding often has more rows than the tokenizer has tokens."""
    assert server.post("/detokenize", {"tokens": [999999]}).json()["prompt"] == ""
