"""The commands that scripts rely on: their words, and the fields of what they print."""

import json
from pathlib import Path

import pytest

from aquila.checkpoint.open import open_checkpoint
from checkpoint_parts import assert_equal
from loopback import serve
from parts import tiny_checkpoint, tiny_tokenizer

pytestmark = pytest.mark.e2e

PROMPT = "class Stack:\n    # 问候"  # the tiny model goes on for 40 tokens and more
TOY = """
models:
  - name: toy
    kind: base
    preset: tiny
    num_parameters: 42144
    context_length: 128
    licence: {name: Toy Licence, url: "https://example.org/licence", note: For tests.}
    sources: {hf: toys/Toy}
    versions: [{version: v0.1, changes: First.}]
"""


def json_lines(done) -> list[dict]:
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def test_models_lists_names_sizes_and_versions_with_md5(aquila):
    models = {model["name"]: model for model in json.loads(aquila("models", "--json").stdout)}
    assert models["aquila-7b"]["num_parameters"] == 7_295_537_152
    assert models["aquila-7b"]["versions"][0] == models["aquila-7b"]["versions"][0] | {
        "version": "v0.5",
        "md5": "13d39993743e66081640c6245da3db48",
    }
    assert all(version.keys() >= {"version", "md5"} for model in models.values() for version in model["versions"])


def test_tokenizer_encode_prints_the_ids_of_stdin(aquila, checkpoint: Path):
    done = aquila("tokenizer", "encode", "--tokenizer", checkpoint, "--json", stdin=PROMPT.encode())
    assert json.loads(done.stdout) == {"token_ids": tiny_tokenizer().encode(PROMPT)}


def test_generate_prints_a_json_line_a_completion_and_one_of_statistics(aquila, checkpoint: Path):
    options = ("--temperature", "0", "--max-new-tokens", "12", "--n", "2", "--json")
    *completions, stats = json_lines(aquila("generate", "--model", checkpoint, *options, PROMPT))
    assert [completion["index"] for completion in completions] == [0, 1]
    for completion in completions:
        assert completion["prompt_token_ids"] == tiny_tokenizer().encode(PROMPT)
        assert completion["text"] == tiny_tokenizer().decode(completion["token_ids"])
        assert completion["finish_reason"] == "length"
        assert len(completion["token_ids"]) == 12
    assert completions[0]["token_ids"] == completions[1]["token_ids"]
    assert stats["tokens_per_second"] > 0
    assert stats["time_to_first_token_seconds"] > 0
    assert stats["peak_memory_bytes"] > 1 << 20


def test_generate_with_lookup_prints_the_same_with_fewer_steps(aquila, tmp_path: Path):
    checkpoint = tiny_checkpoint(tmp_path / "tiny", initializer_range=0.1)  # its text falls into loops
    options = ("--temperature", "0", "--max-new-tokens", "60", "--seed", "0", "--json")
    found, stats = json_lines(aquila("generate", "--model", checkpoint, *options, "--lookup", PROMPT))
    expected, plain = json_lines(aquila("generate", "--model", checkpoint, *options, "--no-lookup", PROMPT))
    assert found == expected
    assert 0 < stats["num_accepted_tokens"] <= stats["num_drafted_tokens"]
    assert plain["num_drafted_tokens"] == 0


def test_generate_gives_one_text_streamed_plain_and_as_json_from_argument_file_and_stdin(
    aquila, checkpoint: Path, tmp_path: Path
):
    (tmp_path / "prompt.py").write_text(PROMPT, encoding="utf-8")
    command = ("generate", "-m", checkpoint, "--temperature", "0", "--max-new-tokens", "40", "-q")
    streamed = aquila(*command, "--stream", PROMPT, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    plain = aquila(*command, "--file", tmp_path / "prompt.py")
    completion, _ = json_lines(aquila(*command, "--json", stdin=PROMPT.encode()))
    assert streamed.stdout == plain.stdout == (completion["text"] + "\n").encode()
    assert streamed.stderr == plain.stderr == b""


def test_convert_there_and_back_keeps_every_number_and_verify_agrees(aquila, checkpoint: Path, tmp_path: Path):
    aquila("convert", checkpoint, tmp_path / "tiny.gguf", "--to", "gguf", "--dtype", "fp32")
    aquila("convert", tmp_path / "tiny.gguf", tmp_path / "native", "--to", "native")
    rows = json.loads(aquila("verify", tmp_path / "native", "--json").stdout)
    assert {row["status"] for row in rows} == {"ok"}
    assert {"model.safetensors", "config.json", "tokenizer.json", "tensors"} <= {row["file"] for row in rows}
    assert_equal(open_checkpoint(tmp_path / "native").tensors, open_checkpoint(checkpoint).tensors)
    assert (tmp_path / "native" / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()


def test_a_model_is_pulled_from_a_hub_verified_and_generates_by_name(aquila, checkpoint: Path, tmp_path: Path):
    (tmp_path / "registry.yaml").write_text(TOY, encoding="utf-8")
    contents = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    with serve() as hub:
        hub.add_hugging_face("toys/Toy", contents)
        online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "AQUILA_HOME": str(tmp_path)}
        pulled = aquila("pull", "toy", **online)
    assert pulled.stdout.decode().strip() == str(tmp_path / "models" / "toy")
    assert "Toy Licence" in pulled.stderr.decode()
    aquila("pull", "toy", **online)  # the hub is gone: what is here needs no network
    aquila("verify", "toy", AQUILA_HOME=str(tmp_path))
    options = ("--temperature", "0", "--max-new-tokens", "3", "--json")
    completion, stats = json_lines(aquila("generate", "-m", "toy", *options, PROMPT, AQUILA_HOME=str(tmp_path)))
    assert len(completion["token_ids"]) == 3
    assert stats["model"] == "toy"


def test_doctor_reports_the_machine_as_one_object(aquila):
    report = json.loads(aquila("doctor", "--json", "--offline").stdout)
    assert report["ok"] is True
    assert report["python"]["version"]
