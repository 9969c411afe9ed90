"""Which language a file is in, and what of a folder is read."""

import json
from pathlib import Path

import pytest

from aquila.evaluate.text_tree import Skipped, TreeText, language_of_file, language_of_prose, read_tree


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("a.py", "python"),
        ("A.CPP", "cpp"),
        ("a.h", "c"),
        ("a.tsx", "ts"),
        ("Makefile", "makefile"),
        ("a.md", "en"),
        ("no_suffix", "en"),
        ("a.jsonl", "en"),
        ("a.json", "json"),
    ],
)
def test_names_say_the_language(name: str, language: str):
    assert language_of_file(Path(name), "some words") == language


def test_prose_is_told_apart_by_its_letters():
    assert language_of_prose("今天天气很好。") == "zh"
    assert language_of_prose("函数 is_prime 判断一个数是不是素数") == "zh"
    assert language_of_prose("The word 素数 means prime number") == "en"
    assert language_of_prose("123") == "en"
    assert language_of_file(Path("README.md"), "这是说明") == "zh"


def test_a_folder_is_read_file_by_file_and_json_line_by_line(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.py").write_text("hidden = 1\n")
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "empty.py").write_text(" \n")
    (tmp_path / "sub" / "b.bin").write_bytes(b"\0\1")
    (tmp_path / "sub" / "c.txt").write_bytes("天气".encode("gb18030"))
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": "你好，世界"}) + "\n" + json.dumps({"other": 1}) + "\n")
    found = list(read_tree(tmp_path))
    texts = {each.name: (each.language, each.text) for each in found if isinstance(each, TreeText)}
    skipped = {Path(each.name).name: each.reason for each in found if isinstance(each, Skipped)}
    assert texts == {str(tmp_path / "a.py"): ("python", "x = 1\n"), f"{tmp_path / 'd.jsonl'}:1": ("zh", "你好，世界")}
    assert skipped["empty.py"] == "empty"
    assert skipped["b.bin"] == "a binary file"
    assert "is not UTF-8" in skipped["c.txt"]
    assert skipped["d.jsonl:2"] == "no text in field 'text'"
