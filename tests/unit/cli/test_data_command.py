"""`aquila data` as typed."""

import json

import pytest
from typer.testing import CliRunner

from aquila.cli.data import app
from aquila.errors import DataError
from data_parts import TEXTS, pack_texts, write_jsonl
from parts import shared_data, tiny_tokenizer

TALK = {"conversations": [{"from": "human", "value": "Q \u001b[31m"}, {"from": "gpt", "value": "A"}], "instruction": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    tiny_tokenizer().save(path / "tokenizer")
    pack_texts(path / "code")
    write_jsonl(path / "talk.jsonl", [TALK, {"conversations": [{"from": "human", "value": 5}]}])
    return path


def run(*arguments: object, **options):
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False, **options)


def test_pack_prints_what_it_wrote_and_what_it_left_out(folder, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{oops\n', encoding="utf-8")
    options = [tmp_path / "a.jsonl", "--tokenizer", folder / "tokenizer", "--out", tmp_path / "out", "--workers", 1]
    result = run("pack", *options)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{tmp_path}/out: 1 documents, ")
    assert result.stdout.endswith("; left out: 1 invalid\n")
    assert f"left out: {tmp_path}/a.jsonl, line 2: not valid JSON" in result.stderr
    strict = run("pack", *options, "--strict", "--json")
    assert strict.exit_code == 1
    assert json.loads(strict.stdout)["num_invalid"] == 1


RECIPE = """
stage: pretrain
model: {{base: tiny, vocab_size: 320}}
tokenizer: {folder}/tokenizer
data: {{path: {folder}/code, sequence_length: 64}}
train: {{steps: 5, global_batch_size: 4, seed: 3}}
"""


def test_peek_shows_the_batch_of_a_step(folder, tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")
    text = run("peek", tmp_path / "recipe.yaml", "--step", 3, "--rows", 4).stdout
    record = json.loads(run("peek", tmp_path / "recipe.yaml", "--step", 3, "--rows", 4, "--json").stdout)
    assert text.startswith("step 3 of 5: 4 sequences of 64 tokens, ")
    assert f"data {record['digest'][:12]}" in text
    first = record["rows"][0]
    assert f"row 0: code, sequence {first['index']}, epoch 0; " in text
    shown = tiny_tokenizer().decode(first["input_ids"][2:20])
    assert shown[:8] in text.replace("⟦", "").replace("⟧", "")
    other = json.loads(run("peek", tmp_path / "recipe.yaml", "train.seed=4", "--step", 3, "--json").stdout)
    assert other["digest"] != record["digest"]
    from data_parts import loader_of

    batch = loader_of(folder / "code", sequence_length=64, seed=3).batch(3)
    assert [row["input_ids"] for row in record["rows"]] == batch.input_ids.tolist()
    assert [row["labels"] for row in record["rows"]] == batch.labels.tolist()


def test_preview_marks_what_is_learned(folder):
    options = [folder / "talk.jsonl", "--tokenizer", folder / "tokenizer", "--template", "bair_v1"]
    text = run("preview", *options).stdout
    assert text.startswith(f"{folder}/talk.jsonl, line 1 (seed, template bair_v1): ")
    assert "BEGINNING OF CONVERSATION: USER: Q ␛[31m GPT:⟦ A</s>⟧" in text
    record = json.loads(run("preview", *options, "--json").stdout)
    learned = [token for token, mark in zip(record["token_ids"], record["learned"], strict=True) if mark]
    assert tiny_tokenizer().decode(learned, skip_special=False) == " A</s>"
    with pytest.raises(DataError, match="1 usable conversations; `aquila data validate` names what is wrong"):
        run("preview", *options, "--skip", 1)


def test_preview_colours_on_a_terminal(folder, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    options = [folder / "talk.jsonl", "--tokenizer", folder / "tokenizer", "--template", "bair_v1"]
    text = run("preview", *options).stdout
    assert "\x1b[32m A</s>\x1b[0m" in text
    assert "⟦" not in text


def test_validate_names_file_line_and_field(folder):
    result = run("validate", folder / "talk.jsonl", folder / "code")
    assert result.exit_code == 1
    assert f"{folder}/talk.jsonl, line 2: conversations[0].value: expected a text, got 5\n" in result.stdout
    assert f"{folder}/talk.jsonl: 1 conversations (1 seed), 1 invalid\n" in result.stdout
    assert f"{folder}/code: {len(TEXTS)} documents, " in result.stdout


def test_validate_compares_every_byte_of_a_shard(folder, tmp_path):
    pack_texts(tmp_path / "a")
    assert run("validate", tmp_path / "a.idx").exit_code == 0
    data = bytearray((tmp_path / "a.bin").read_bytes())
    data[100] ^= 1
    (tmp_path / "a.bin").write_bytes(bytes(data))
    result = run("validate", tmp_path / "a")
    assert result.exit_code == 1
    assert f"{tmp_path}/a.bin: its bytes are not those that were packed; pack again" in result.stdout
    (tmp_path / "a.bin").write_bytes(b"")
    result = run("validate", tmp_path / "a.bin", "--json")
    assert "it ends early" in json.loads(result.stdout)["files"][0]["problems"][0]


def test_index_maps_are_megatrons_bytes(tmp_path):
    golden = shared_data("megatron-demo")
    for suffix in (".bin", ".idx"):
        (tmp_path / f"demo_text_document{suffix}").write_bytes((golden / f"demo_text_document{suffix}").read_bytes())
    options = ["--num-samples", "90", "--sequence-length", 1024, "--split", "90,10", "--seed", 2023]
    result = run("index-maps", tmp_path / "demo_text_document", *options)
    for line in result.stdout.split():
        name = line.rpartition("/")[2]
        assert (tmp_path / name).read_bytes() == (golden / name).read_bytes()
    assert len(result.stdout.split()) == 3
