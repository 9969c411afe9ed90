from pathlib import Path

import pytest

from aquila.errors import CheckpointError, ConfigError, IntegrityError
from aquila.zoo.registry import find
from aquila.zoo.store import (
    FileRecord,
    Record,
    downloaded,
    is_plain_name,
    local_path,
    remove,
    resolve,
    useful_files,
    write_record,
)


def install(home: Path, folder: str = "aquila-7b") -> Path:
    path = home / "models" / folder
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}", encoding="utf-8")
    record = Record(
        name="aquila-7b",
        version="v0.8",
        preset="aquila-7b",
        chat_template=None,
        licence="L",
        licence_url="https://example.org",
        source="file:x",
        files={"config.json": FileRecord(size=2, sha256="0" * 64)},
    )
    write_record(path, record)
    return path


def test_resolve_prefers_a_path_that_exists(tmp_path, monkeypatch):
    (tmp_path / "aquila-7b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("aquila-7b") == Path("aquila-7b")


def test_resolve_finds_a_pulled_model_by_alias_and_version(home):
    path, version = install(home), install(home, "aquila-7b@v0.8")
    assert resolve("BAAI/Aquila-7B") == path
    assert resolve("aquila-7b@0.8") == version
    assert downloaded(find("aquila-7b")) == [path, version]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("aquila-7b", CheckpointError, "aquila-7b is not on this machine; run `aquila pull aquila-7b`"),
        ("aquila-7c", ConfigError, "'aquila-7c' is neither a path nor a known model; did you mean 'aquila-7b'"),
        ("./nowhere", ConfigError, "no such file or folder"),
        ("nowhere.gguf", ConfigError, "no such file or folder"),
        (Path("nowhere"), ConfigError, "no such file or folder"),
        ("", ConfigError, "the name of the model is empty"),
    ],
)
def test_resolve_says_what_is_wrong(name, error, message):
    with pytest.raises(error, match=message):
        resolve(name)


def test_a_folder_without_its_files_is_not_a_model(home):
    path = install(home)
    (path / "config.json").unlink()
    assert local_path("aquila-7b") is None
    assert downloaded(find("aquila-7b")) == []


def test_remove(home):
    path = install(home)
    assert remove("aquila-7b") == path
    assert not path.exists()
    with pytest.raises(CheckpointError, match="nothing was removed"):
        remove("aquila-7b")


@pytest.mark.parametrize(
    "content", ["{", '{"name": "x"}', '{"files": {"../x": {"size": 1, "sha256": ""}}, "name": "a"}']
)
def test_a_damaged_record_is_an_error_not_a_model(home, content):
    path = install(home)
    (path / "aquila.json").write_text(content, encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"aquila\.json: not a readable record"):
        local_path("aquila-7b")


def test_a_record_cannot_point_out_of_its_folder(home):
    path = install(home)
    text = (path / "aquila.json").read_text(encoding="utf-8").replace("config.json", "../config.json")
    (path / "aquila.json").write_text(text, encoding="utf-8")
    with pytest.raises(IntegrityError, match="outside its folder"):
        local_path("aquila-7b")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "C:x", "a\0b", "a\nb"])
def test_names_that_leave_the_folder(name):
    assert not is_plain_name(name)


def test_useful_files_take_one_set_of_weights():
    names = ["pytorch_model.bin", "model.safetensors", "config.json", "a.gguf", "x/config.json", "LICENSE", "photo.png"]
    assert useful_files(names) == ["model.safetensors", "LICENSE", "config.json"]
    assert useful_files(["pytorch_model.bin", "optimizer.bin", "a.gguf"]) == ["pytorch_model.bin"]
    assert useful_files(["a.gguf"]) == ["a.gguf"]
