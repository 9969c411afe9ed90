"""`aquila tokenizer`: text in, ids out, and back."""

import json

import pytest
from typer.testing import CliRunner

from aquila.cli.tokenizer import app
from aquila.errors import ConfigError
from aquila.tokenizer.load import load_tokenizer
from aquila.tokenizer.samples import CODE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    (path / "text.txt").write_text(CODE * 5, encoding="utf-8")
    run(["train", str(path / "text.txt"), "--vocab-size", "350", "--out", str(path)])
    return path


def run(arguments, stdin: bytes | str = ""):
    return CliRunner().invoke(app, arguments, input=stdin, catch_exceptions=False)


def test_encode_json_and_decode_give_the_text_back(folder):
    encoded = run(["encode", "--tokenizer", str(folder), "--json"], "数量 x\n").output
    assert json.loads(encoded) == {"token_ids": load_tokenizer(folder).encode("数量 x\n")}
    assert run(["decode", "--tokenizer", str(folder)], encoded).output == "数量 x\n"
    assert json.loads(run(["decode", "--tokenizer", str(folder), "--json"], encoded).output) == {"text": "数量 x\n"}


def test_plain_ids(folder):
    encoded = run(["encode", "--tokenizer", str(folder)], "if x").output
    assert [int(word) for word in encoded.split()] == load_tokenizer(folder).encode("if x")
    assert run(["decode", "--tokenizer", str(folder)], encoded).output == "if x"


def test_special_tokens_on_demand(folder):
    encode = ["encode", "--tokenizer", str(folder)]
    assert len(run(encode, "<|endoftext|>").output.split()) > 1
    assert run([*encode, "--allow-special"], "<|endoftext|>").output == "0\n"
    assert run(["decode", "--tokenizer", str(folder), "--keep-special"], "0").output == "<|endoftext|>"


def test_stats(folder):
    rows = json.loads(run(["stats", "--tokenizer", str(folder), "--json"]).output)["texts"]
    assert [row["name"] for row in rows] == ["zh", "en", "code"]
    assert rows[2]["bytes"] == len(CODE.encode())
    assert rows[2]["bytes_per_token"] == pytest.approx(rows[2]["bytes"] / rows[2]["tokens"], abs=1e-4)
    table = run(["stats", str(folder / "text.txt"), "--tokenizer", str(folder)]).output
    assert "bytes/token" in table
    assert "text.txt" in table


@pytest.mark.parametrize(
    ("command", "stdin", "message"),
    [
        ("encode", b"ab\xff", r"standard input: byte 2 \(0xff\) is not UTF-8; convert it first"),
        ("decode", "1 two", "'two' is not a token id"),
        ("decode", "[1, 2", "not valid JSON"),
        ("decode", '{"ids": []}', "standard input has no token_ids"),
        ("decode", "[-1]", "-1 is not a token id"),
        ("decode", "350", "token id 350 is not in the vocabulary; its ids are 0 to 349"),
    ],
)
def test_bad_input_is_a_usage_error(folder, command, stdin, message):
    with pytest.raises(ConfigError, match=message) as caught:
        run([command, "--tokenizer", str(folder)], stdin)
    assert caught.value.exit_code == 2
