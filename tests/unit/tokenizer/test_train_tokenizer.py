"""Training a vocabulary."""

import subprocess
import sys

import pytest

from aquila.errors import ConfigError
from aquila.tokenizer.load import load_tokenizer
from aquila.tokenizer.samples import CODE, SAMPLES
from aquila.tokenizer.specials import FIM_NAMES
from aquila.tokenizer.train import SPECIALS, read_texts, train_tokenizer

TRAIN = """
import sys
from pathlib import Path
from aquila.tokenizer.samples import SAMPLES
from aquila.tokenizer.train import train_tokenizer
train_tokenizer([*SAMPLES.values()] * 20, vocab_size=600).save(Path(sys.argv[1]))
"""


def test_same_bytes_whatever_the_thread_count_and_order(tmp_path):
    for threads in ("1", "4"):
        command = [sys.executable, "-c", TRAIN, str(tmp_path / threads)]
        subprocess.run(command, env={"RAYON_NUM_THREADS": threads}, check=True)
    train_tokenizer(reversed([*SAMPLES.values()] * 20), vocab_size=600).save(tmp_path / "reversed")
    files = {(tmp_path / name / "tokenizer.json").read_bytes() for name in ("1", "4", "reversed")}
    assert len(files) == 1


def test_specials_of_a_new_vocabulary(tiny_tokenizer):
    assert [tiny_tokenizer.token_text(token_id) for token_id in range(len(SPECIALS))] == list(SPECIALS)
    assert set(FIM_NAMES.values()) < set(SPECIALS)
    assert (tiny_tokenizer.eos_token_ids[0], tiny_tokenizer.pad_token_id) == (0, 0)
    assert tiny_tokenizer.fim.ids() == {role: tiny_tokenizer.token_id(text) for role, text in FIM_NAMES.items()}


def test_digits_stand_alone_and_newline_keeps_its_indentation():
    tokenizer = train_tokenizer(["2023 2023 2023\n    return\n" * 50], vocab_size=320)
    assert [tokenizer.token_text(token_id) for token_id in tokenizer.encode("2023")] == ["2", "0", "2", "3"]
    assert tokenizer.token_id("ĊĠĠĠ") is not None


def test_files_are_read_in_whole_lines_and_jsonl_by_text(tmp_path):
    (tmp_path / "a.txt").write_text(CODE, encoding="utf-8", newline="")
    (tmp_path / "b.jsonl").write_text('{"text": "甲"}\n\n{"text": "b"}\n', encoding="utf-8")
    assert "".join(read_texts([tmp_path / "a.txt"])) == CODE
    assert list(read_texts([tmp_path / "b.jsonl"])) == ["甲", "b"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"ab\xff", r"a.txt: not UTF-8 \(invalid start byte\); convert the file first"),
        ("a.jsonl", b'{"text": 1}\n', r"a.jsonl, line 1: no text; every line must be an object"),
        ("a.jsonl", b'{"text": ""}\n{', r"a.jsonl, line 2: not valid JSON"),
    ],
)
def test_unreadable_files(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        list(read_texts([tmp_path / name]))


def test_absent_file(tmp_path):
    with pytest.raises(ConfigError, match="nothing: no such file"):
        list(read_texts([tmp_path / "nothing"]))


def test_vocabulary_without_room_for_the_bytes():
    with pytest.raises(ConfigError, match=f"vocab_size is 100; 256 bytes and {len(SPECIALS)} specials need"):
        train_tokenizer(["a"], vocab_size=100)
    with pytest.raises(ConfigError, match="vocab_size is 100000000000; at most 4194304 ids make a model"):
        train_tokenizer(["x"], vocab_size=10**11)


def test_too_little_text_is_said(caplog):
    tokenizer = train_tokenizer(["abab"], vocab_size=1000)
    assert f"yield {tokenizer.vocab_size} entries of the 1000 asked for" in caplog.text


def test_trained_tokenizer_loads_again(tmp_path):
    tokenizer = train_tokenizer(SAMPLES.values(), vocab_size=330)
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).encode(CODE) == tokenizer.encode(CODE)
