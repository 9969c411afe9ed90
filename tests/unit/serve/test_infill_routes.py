"""/infill and its relatives, as editors ask them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import aquila
from aquila.generate.infill import infill_request
from aquila.generate.load import Model
from aquila.generate.middle import clean_middle
from aquila.generate.sampling import SamplingParams
from aquila.serve.app import create_app
from aquila.serve.server import Server
from aquila.serve.settings import Settings
from parts import tiny_checkpoint

BEFORE, LINE, AFTER = "def is_prime(n):\n    if n < 2:\n", "        re", "\n    return True\n"
VIM = {  # as llama.vim sends it
    "id_slot": 0,
    "model": "",
    "input_prefix": BEFORE,
    "input_suffix": AFTER,
    "input_extra": [{"text": "x = 1\n", "filename": "a.py", "time": [0, 1]}],
    "prompt": LINE,
    "n_predict": 12,
    "stop": [],
    "n_indent": 8,
    "top_k": 40,
    "top_p": 0.9,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 60_000,
    "response_fields": ["content", "timings/prompt_n", "timings/predicted_per_second", "truncated", "tokens_cached"],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("infill") / "tiny", max_position_embeddings=512)


def client_of(model: Model) -> Iterator[TestClient]:
    server = Server(Settings())
    server.become_ready(model)
    with TestClient(create_app(server), base_url="http://127.0.0.1:8000") as client:
        yield client
    server.stop()


@pytest.fixture(scope="module")
def client(checkpoint: Path) -> Iterator[TestClient]:
    yield from client_of(aquila.load(checkpoint))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("untrained") / "tiny")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"fill_in_the_middle": False}), encoding="utf-8")
    yield from client_of(aquila.load(folder))


def expected(model: Model, max_new_tokens: int, line: str = LINE, min_indent: int = 0, **extra: Any) -> str:
    """The middle by the other route: the engine, then the cleaning of a whole text."""
    params = SamplingParams(temperature=0, max_new_tokens=max_new_tokens)
    request = infill_request(model, BEFORE, AFTER, params, line=line, **extra)
    [[completion]] = model.engine.generate([request])
    return clean_middle(completion.text, AFTER, ended=completion.finish_reason == "stop", min_indent=min_indent)


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_what_llama_vim_reads_is_there_and_compact(client: TestClient) -> None:
    answer = client.post("/infill", json=VIM, headers={"authorization": "Bearer "})  # the key that it has by default
    assert answer.status_code == 200
    assert "\n" not in answer.text, "Vim would take each line for an answer"
    assert '"content":"' in answer.text, "llama.vim takes no reply with a space there"
    assert set(answer.json()) == set(VIM["response_fields"])
    assert answer.json()["timings/prompt_n"] > 0
    assert answer.json()["truncated"] is False


def test_a_middle_is_the_same_whole_streamed_and_by_the_engine(checkpoint: Path) -> None:
    """Each way with an engine of its own: a server's belongs to its thread."""
    text = expected(aquila.load(checkpoint), 20)
    body = {"input_prefix": BEFORE, "input_suffix": AFTER, "prompt": LINE, "n_predict": 20}
    for client in client_of(aquila.load(checkpoint)):
        whole = client.post("/infill", json=body).json()
        assert whole["content"] == text
        assert whole["tokens_predicted"] > 0
        assert whole["stop_type"] in ("limit", "eos")
        assert whole["timings"].keys() >= {"prompt_n", "prompt_ms", "prompt_per_token_ms", "predicted_per_token_ms"}
        *pieces, last = events(client.post("/infill", json=body | {"stream": True}).text)
        assert "".join(piece["content"] for piece in pieces) == text
        assert [piece["stop"] for piece in pieces] == [False] * len(pieces)
        assert last["stop"] is True
        assert last["tokens_predicted"] == whole["tokens_predicted"]


def test_a_second_request_finds_the_context_computed(client: TestClient) -> None:
    body = {"input_prefix": BEFORE * 8, "input_suffix": AFTER * 4, "prompt": "    x = 1", "n_predict": 2}
    body["spm_infill"] = True
    first = client.post("/infill", json=body | {"n_predict": 0}).json()
    assert first["content"] == ""
    assert first["tokens_predicted"] == 0
    typed = client.post("/infill", json=body | {"prompt": "    x = 1\n    y"}).json()
    assert typed["timings"]["cache_n"] > 0.8 * first["tokens_evaluated"]


def test_several_middles_come_as_a_list(client: TestClient) -> None:
    answers = client.post("/infill", json=VIM | {"n_cmpl": 3, "response_fields": ["content", "index"]}).json()
    assert [answer["index"] for answer in answers] == [0, 1, 2]


def test_no_field_asked_for_is_an_empty_answer(client: TestClient) -> None:
    warm_up = VIM | {"n_predict": 0, "prompt": "", "input_prefix": "", "input_suffix": "", "response_fields": [""]}
    assert client.post("/infill", json=warm_up).json() == {}


def test_the_completions_route_and_mistrals_fill_in_the_same_middle(client: TestClient) -> None:
    prompt = BEFORE + LINE
    asked = {"input_prefix": prompt, "input_suffix": AFTER, "n_predict": 16}
    completion = client.post("/infill", json=asked).json()["content"]
    body = {"model": "tiny", "prompt": prompt, "suffix": AFTER, "max_tokens": 16, "temperature": 0}
    plain = client.post("/v1/completions", json=body)
    assert plain.json()["choices"][0]["text"] == completion
    assert client.post("/beta/completions", json=body).json()["choices"][0]["text"] == completion
    fim = client.post("/v1/fim/completions", json=body | {"random_seed": 3}).json()
    assert fim["object"] == "chat.completion"
    assert fim["choices"][0]["message"]["content"] == completion
    assert fim["usage"]["completion_tokens"] > 0
    chunks = events(client.post("/v1/fim/completions", json=body | {"stream": True}).text)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == completion
    assert chunks[-1]["usage"]["total_tokens"] == fim["usage"]["total_tokens"]


def test_what_llama_vscode_sends(client: TestClient) -> None:
    """It asks for three middles; what warms the server up asks for none, between two empty texts."""
    chunk = {"text": "x = 1\n", "time": 1764000000000, "filename": "a.py"}
    body = {"id_slot": 0, "input_prefix": BEFORE, "input_suffix": AFTER, "prompt": LINE, "n_predict": 12, "n_cmpl": 3}
    body |= {"top_k": 40, "top_p": 0.99, "stream": False, "samplers": ["top_k", "top_p", "infill"], "n_indent": 8}
    body |= {"cache_prompt": True, "t_max_prompt_ms": 500, "t_max_predict_ms": 60_000, "input_extra": [chunk]}
    answers = client.post("/infill", json=body).json()
    assert len(answers) == 3
    read = {"prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms", "predicted_per_second"}
    for answer in answers:
        assert answer["timings"].keys() >= read
        assert answer.keys() >= {"content", "generation_settings", "tokens_cached", "truncated"}
    for empty in ({"n_predict": 0, "samplers": []}, {"n_predict": 1, "samplers": ["temperature"]}):  # now, and before
        warm_up = {"input_prefix": "", "input_suffix": "", "prompt": "", "t_max_predict_ms": 1, "input_extra": [chunk]}
        assert client.post("/infill", json=warm_up | empty).status_code == 200


def test_what_zed_sends_and_reads(client: TestClient) -> None:
    """Its provider `codestral`, and `open_ai_compatible_api`, which writes the model's own marks into the prompt."""
    prompt = BEFORE + LINE
    asked = {"prompt": prompt, "suffix": AFTER, "max_tokens": 16, "temperature": 0.2, "top_p": 1.0, "stream": False}
    fim = client.post("/v1/fim/completions", json={"model": "tiny", **asked}).json()
    assert {type(fim["usage"][f"{kind}_tokens"]) for kind in ("prompt", "completion", "total")} == {int}
    assert [type(fim[name]) for name in ("id", "object", "model", "created")] == [str, str, str, int]
    [choice] = fim["choices"]
    assert choice["message"].items() >= {"role": "assistant"}.items()
    assert choice["finish_reason"] in ("stop", "length")

    marks = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    marked = f"{marks[0]}{prompt}{marks[1]}{AFTER}{marks[2]}"
    body = {"model": "tiny", "prompt": marked, "max_tokens": 16, "stop": ["<|endoftext|>", *marks]}
    plain = client.post("/v1/completions", json=body | {"temperature": 0}).json()
    assert plain.keys() >= {"id", "object", "created", "model", "choices", "usage"}
    middle = client.post("/infill", json={"input_prefix": prompt, "input_suffix": AFTER, "n_predict": 16}).json()
    assert (
        clean_middle(plain["choices"][0]["text"], AFTER, ended=plain["choices"][0]["finish_reason"] == "stop")
        == (middle["content"])
    )


def test_tabbys_body_on_the_completions_route(client: TestClient) -> None:
    segments = {"prefix": BEFORE + LINE, "suffix": AFTER, "filepath": "a.py"}
    answer = client.post("/v1/completions", json={"language": "python", "segments": segments}).json()
    assert set(answer) == {"id", "choices"}
    assert set(answer["choices"][0]) == {"index", "text"}
    assert client.get("/v1/health").json()["version"]["git_describe"].startswith("aquila-")
    assert client.get("/v1beta/server_setting").json() == {"disable_client_side_telemetry": True}
    assert client.post("/v1/events", json={"type": "view"}).status_code == 200


def test_props_say_what_clients_read(client: TestClient) -> None:
    props = client.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == 512
    assert props["total_slots"] > 0
    assert props["fill_in_the_middle"] == ["psm", "spm"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}),
        ("/v1/fim/completions", {"prompt": "a", "suffix": "b"}),
        ("/v1/completions", {"segments": {"prefix": "a", "suffix": "b"}}),
    ],
)
def test_a_model_that_was_not_trained_for_it_is_a_clear_501(
    untrained: TestClient, path: str, body: dict[str, Any]
) -> None:
    for streamed in (False, True):
        answer = untrained.post(path, json=body | {"stream": streamed})
        assert answer.status_code == 501
        message = answer.json()["error"]["message"]
        assert "cannot fill in the middle: its training had none of it" in message
        assert "fim_rate" in message


def test_mistrals_route_without_a_suffix_goes_on(untrained: TestClient) -> None:
    answer = untrained.post("/v1/fim/completions", json={"prompt": "def", "max_tokens": 3}).json()
    assert answer["usage"]["completion_tokens"] <= 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"input_prefix": 3}, "input_prefix"),
        ({"input_extra": [{"filename": "a"}]}, "input_extra.0.text"),
        ({"n_indent": -1}, "n_indent"),
        ({"model": "nobody"}, "'nobody' is not served here"),
        ({"temperature": -1}, "temperature"),
        ({"n_cmpl": 0}, "n_cmpl"),
    ],
)
def test_wrong_fields_are_named(client: TestClient, change: dict[str, Any], told: str) -> None:
    answer = client.post("/infill", json=VIM | change)
    assert answer.status_code in (400, 404)
    assert told in answer.json()["error"]["message"]


def test_the_block_that_a_middle_belongs_to_ends_it(client: TestClient) -> None:
    body = {"input_prefix": BEFORE, "input_suffix": AFTER, "prompt": LINE, "n_predict": 60}
    long = client.post("/infill", json=body).json()["content"]
    cut = client.post("/infill", json=body | {"n_indent": 8}).json()["content"]
    assert cut == clean_middle(long, AFTER, ended=True, min_indent=8)
    line = client.post("/infill", json=body | {"single_line": True}).json()["content"]
    assert line == clean_middle(long, AFTER, ended=True, single_line=True)
