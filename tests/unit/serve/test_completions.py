"""/v1/completions over a real connection, and the engine beside it as the other route to the same answer."""

import json

import pytest

from aquila.generate.sampling import SamplingParams
from parts import tiny_tokenizer
from serve_parts import running, tiny_served

PROMPT = "def is_prime(n):"
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def server():
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def model():
    return tiny_served()


def events(response) -> list[dict]:
    """The documents of an event stream, which ends as it must."""
    lines = [line for line in response.text.split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def texts(response) -> list[str]:
    assert response.status_code == 200, response.text
    return [choice["text"] for choice in response.json()["choices"]]


def test_the_answer_is_the_engines(server, model):
    body = server.post("/v1/completions", {"prompt": PROMPT, **GREEDY}).json()
    (completion,) = model.generate(PROMPT, SamplingParams(temperature=0, max_new_tokens=12))
    assert body["choices"] == [{"index": 0, "text": completion.text, "logprobs": None, "finish_reason": "length"}]
    assert body["object"] == "text_completion"
    assert body["model"] == "tiny"
    num_prompt = len(tiny_tokenizer().encode(PROMPT))
    assert body["usage"]["prompt_tokens"] == num_prompt
    assert body["usage"]["completion_tokens"] == 12
    assert body["usage"]["total_tokens"] == num_prompt + 12


def test_texts_and_token_ids_are_one_prompt(server):
    ids = tiny_tokenizer().encode(PROMPT)
    alone = texts(server.post("/v1/completions", {"prompt": PROMPT, **GREEDY}))
    assert texts(server.post("/v1/completions", {"prompt": ids, **GREEDY})) == alone
    assert texts(server.post("/v1/completions", {"prompt": [PROMPT, "x = 1"], **GREEDY}))[0] == alone[0]
    assert texts(server.post("/v1/completions", {"prompt": [ids, ids], **GREEDY})) == alone * 2


def test_a_seed_gives_the_same_and_n_differ(server):
    body = {"prompt": PROMPT, "max_tokens": 20, "temperature": 1, "seed": 5, "n": 3}
    first = texts(server.post("/v1/completions", body))
    assert texts(server.post("/v1/completions", body)) == first
    assert len(set(first)) == 3


@pytest.mark.parametrize("extra", [{}, {"logprobs": 2, "echo": True}, {"n": 2, "seed": 3, "temperature": 1}])
def test_a_stream_joined_is_the_whole_answer(server, extra):
    body = {"prompt": [PROMPT, "class Stack:"], "max_tokens": 15, "temperature": 0, **extra}
    whole = server.post("/v1/completions", body).json()
    streamed = events(
        server.post("/v1/completions", {**body, "stream": True, "stream_options": {"include_usage": True}})
    )
    *chunks, last = streamed
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    for choice in whole["choices"]:
        parts = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert [part["finish_reason"] for part in parts if part["finish_reason"]] == [choice["finish_reason"]]
        if choice["logprobs"]:
            for name, values in choice["logprobs"].items():
                assert [value for part in parts for value in part["logprobs"][name]] == values


def test_a_stop_string_ends_the_text_and_is_not_in_it(server):
    (whole,) = texts(server.post("/v1/completions", {"prompt": PROMPT, "temperature": 0, "max_tokens": 40}))
    stop = whole[10:13]
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 40, "stop": [stop, "never there"]}
    answer = server.post("/v1/completions", body).json()["choices"][0]
    assert answer["text"] == whole[: whole.index(stop)]
    assert answer["finish_reason"] == "stop"
    streamed = events(server.post("/v1/completions", {**body, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == answer["text"]


def test_scoring_as_lm_eval_asks_for_it(server, model):
    """The wire contract of lm-eval's local-completions: lists of token ids, one token more, its own score last."""
    prompts = [tiny_tokenizer().encode(text) for text in (PROMPT, "print(1, 'hello world')")]
    body = {"prompt": prompts, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True, "seed": 1234}
    answer = server.post("/v1/completions", body).json()
    for choice, prompt in zip(answer["choices"], prompts, strict=True):
        scores = choice["logprobs"]
        assert scores["token_logprobs"][0] is None
        assert len(scores["token_logprobs"]) == len(scores["top_logprobs"]) == len(prompt) + 1
        for place in range(1, len(prompt)):  # the other route: each token as the continuation of those before it
            params = SamplingParams(temperature=0, max_new_tokens=1, logprobs=100)
            (delta,) = model.stream(prompt[:place], params)
            known = dict(delta.logprobs[0].top)
            if prompt[place] in known:
                assert scores["token_logprobs"][place] == pytest.approx(known[prompt[place]], abs=1e-4)
            assert max(scores["top_logprobs"][place].values()) == pytest.approx(max(known.values()), abs=1e-4)


def test_a_long_prompt_is_scored_in_pieces_without_a_cache(server):
    ids = (tiny_tokenizer().encode(PROMPT) * 40)[:300]
    body = {"prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
    first = server.post("/v1/completions", body).json()
    again = server.post("/v1/completions", body).json()
    assert len(first["choices"][0]["logprobs"]["token_logprobs"]) == 301
    assert again["choices"][0]["logprobs"] == first["choices"][0]["logprobs"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_no_tokens_gives_the_prompt_back(server):
    body = {"prompt": PROMPT, "max_tokens": 0, "temperature": 0, "logprobs": 0, "echo": True}
    choice = server.post("/v1/completions", body).json()["choices"][0]
    assert choice["text"] == PROMPT
    assert choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["tokens"]) == len(tiny_tokenizer().encode(PROMPT))


def test_best_of_gives_the_likeliest(server):
    body = {"prompt": PROMPT, "max_tokens": 6, "temperature": 1, "seed": 1, "logprobs": 0, "ignore_eos": True}
    all_of_them = server.post("/v1/completions", {**body, "n": 5}).json()["choices"]
    best = server.post("/v1/completions", {**body, "n": 2, "best_of": 5}).json()["choices"]
    ranked = sorted(all_of_them, key=lambda choice: -sum(choice["logprobs"]["token_logprobs"]))
    assert [choice["text"] for choice in best] == [choice["text"] for choice in ranked[:2]]


def test_a_wish_for_more_than_there_is_room_for_is_cut(server):
    answer = server.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 32000, "temperature": 0}).json()
    assert answer["usage"]["total_tokens"] <= 1024
    assert answer["choices"][0]["finish_reason"] in ("length", "stop")


def test_a_prompt_beyond_the_context_says_both_numbers(server):
    answer = server.post("/v1/completions", {"prompt": [7] * 1024, **GREEDY})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "1024 tokens, and the prompt has 1024" in error["message"]


def test_a_text_that_cannot_fit_is_not_even_counted(server):
    error = server.post("/v1/completions", {"prompt": "x" * 600_000}).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "1024 tokens, and the prompt has 600000 characters" in error["message"]


def test_characters_never_come_in_halves(server):
    """Bytes of a Chinese character are several tokens here; a stream of forced ones shows no U+FFFD."""
    body = {"prompt": PROMPT, "max_tokens": 60, "guided_choice": ["打印一句问候，然后结束。"], "stream": True}
    pieces = [chunk["choices"][0]["text"] for chunk in events(server.post("/v1/completions", body))]
    assert "".join(pieces) == "打印一句问候，然后结束。"
    assert "\ufffd" not in "".join(pieces)


def test_json_is_compact(server):
    """llama.vim looks for `"content":"`, without a space."""
    response = server.post("/v1/completions", {"prompt": PROMPT, **GREEDY})
    assert '"object":"text_completion"' in response.text
    assert '", "' not in server.client.get("/v1/models").text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": ""}, None),
        ({"prompt": []}, "prompt: the list is empty"),
        ({"prompt": [[]]}, "prompt: token ids are 0 to 319, and at least one"),
        ({"prompt": [5000]}, "prompt: token ids are 0 to 319"),
        ({"prompt": PROMPT, "temperature": -1}, "temperature: must be between"),
        ({"prompt": PROMPT, "top_p": 0}, "top_p: must be above 0"),
        ({"prompt": PROMPT, "n": 0}, "n: "),
        ({"prompt": PROMPT, "n": 2, "best_of": 1}, "best_of: 1 is less than n, 2"),
        ({"prompt": PROMPT, "best_of": 2, "stream": True}, "leave out stream"),
        ({"prompt": PROMPT, "stop": ["a"] * 65}, "stop: 65 texts are too many"),
        ({"prompt": PROMPT, "logit_bias": {"x": 1}}, "logit_bias: 'x' is not a token id"),
        ({"prompt": PROMPT, "logit_bias": {"1": 500}}, "logit_bias: token ids from 0, biases from -100 to 100"),
        ({"prompt": PROMPT, "guided_json": {"not": {}}}, 'the JSON schema cannot be used: Unimplemented keys: ["not"]'),
        ({"prompt": PROMPT, "guided_regex": "("}, "the regular expression cannot be used"),
        ({"prompt": PROMPT, "guided_choice": []}, "the list of choices cannot be used: it is empty"),
        ({"prompt": PROMPT, "grammar": "start: nope"}, "the Lark grammar cannot be used"),
        ({"prompt": PROMPT, "guided_regex": "a", "grammar": "b"}, "guided_regex and grammar: a text can follow one"),
        ({"prompt": PROMPT, "suffix": "x", "echo": True}, "echo: cannot go with a suffix"),
        ({"prompt": 5}, "prompt: Input should be a valid string; or Input should be a valid list"),
        ({}, "prompt: is missing; give a text"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(server, body, message):
    response = server.post("/v1/completions", {**GREEDY, **body})
    if message is None:
        assert response.status_code == 200
        return
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]


def test_a_suffix_needs_a_model_that_was_taught(server):
    response = server.post("/v1/completions", {"prompt": "a", "suffix": "b", "model": "tiny"})
    assert response.status_code == 501
    assert "tiny cannot fill in the middle" in response.json()["error"]["message"]


def test_a_model_that_is_not_there(server):
    response = server.post("/v1/completions", {"prompt": "a", "model": "tinny"})
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": "the model 'tinny' is not served here; did you mean 'tiny'?",
        "type": "not_found_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_logit_bias_forbids_and_forces(server):
    forced = tiny_tokenizer().encode("Q")[0]
    body = {"prompt": PROMPT, "max_tokens": 3, "temperature": 0, "logit_bias": {str(forced): 100}}
    assert texts(server.post("/v1/completions", body)) == ["QQQ"]


def test_drafts_change_nothing():
    """Prompt lookup is on in one engine and off in the other."""
    text = "push(self, item)" * 6
    plain = tiny_served(max_draft_tokens=0)
    guessing = tiny_served(max_draft_tokens=4)
    params = SamplingParams(
        temperature=0, max_new_tokens=40, ignore_eos=True, logit_bias=((tiny_tokenizer().encode("(")[0], 8.0),)
    )
    assert guessing.generate(text, params)[0].token_ids == plain.generate(text, params)[0].token_ids
    assert guessing.engine.stats.num_drafted_tokens > 0
