"""Which format a path is, and what to say when it is none."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aquila.checkpoint.open import open_checkpoint
from aquila.errors import AquilaError, CheckpointError, IntegrityError
from checkpoint_parts import assert_equal, export, random_tensors, tiny_config, tiny_tokenizer, write


@pytest.mark.parametrize("kind", ["native", "hf", "flagai", "gguf"])
def test_every_format_is_recognised_and_reads_the_same(tmp_path: Path, kind: str):
    config = tiny_config(num_key_value_heads=4, rms_norm_eps=1e-6)
    checkpoint = open_checkpoint(write(export(config, "fp16"), tmp_path / "model", kind))
    assert (checkpoint.format, checkpoint.config, checkpoint.dtype) == (kind, config, "fp16")
    assert not checkpoint.has_tokenizer
    assert_equal(checkpoint.tensors, random_tensors(config, "fp16"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_of_a_folder_stands_for_the_folder(tmp_path: Path, name: str):
    path = write(export(tiny_config()), tmp_path / "a", "hf")
    assert open_checkpoint(path / name).path == path


def test_a_folder_with_one_gguf_file_is_that_file(tmp_path: Path):
    """The shape of a pulled model; its record travels along."""
    write(export(tiny_config(), record={"name": "inside"}), tmp_path / "a.gguf", "gguf")
    record = {"name": "tiny", "licence": "Apache-2.0", "chat_template": "aquila-v1"}
    (tmp_path / "aquila.json").write_text(json.dumps(record))
    for path in (tmp_path, tmp_path / "a.gguf"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.format == "gguf"
        assert checkpoint.manifest == record


def test_a_native_folder_keeps_its_record_in_the_manifest(tmp_path: Path):
    record = {"name": "tiny", "chat_template": "aquila-v1"}
    path = write(export(tiny_config(), record=record, tokenizer=tiny_tokenizer()), tmp_path / "a", "native")
    manifest = open_checkpoint(path).manifest
    assert record.items() <= manifest.items()
    assert set(manifest["files"]) == {file.name for file in path.iterdir()} - {"manifest.json"}


def test_a_native_folder_that_lost_bytes_is_an_integrity_error(tmp_path: Path):
    path = write(export(tiny_config(), tokenizer=tiny_tokenizer()), tmp_path / "a", "native")
    file = path / "tokenizer.json"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(IntegrityError, match=rf"tokenizer\.json: 100 bytes, the manifest says {size} bytes"):
        open_checkpoint(path)
    file.unlink()
    with pytest.raises(IntegrityError, match=r"tokenizer\.json: absent"):
        open_checkpoint(path)


@pytest.mark.parametrize("change", [{"format": "other"}, {"format_version": 9}, {"files": []}, {"files": {"x": 1}}])
def test_a_manifest_we_do_not_know_is_refused(tmp_path: Path, change: dict[str, object]):
    path = write(export(tiny_config()), tmp_path / "a", "native")
    manifest = json.loads((path / "manifest.json").read_text()) | change
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"manifest"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no checkpoint recognised, found an empty folder"),
        ({"notes.txt": "x", "data.bin": "y"}, r"found data\.bin, notes\.txt; a checkpoint has a config\.json"),
        ({"a.gguf": "GGUF", "b.gguf": "GGUF"}, r"found a\.gguf, b\.gguf; name one of the \.gguf files"),
        ({"config.json": '{"layers": 3}'}, r"has neither model_type .* nor dim .*, only layers"),
        ({"config.json": "{}"}, "only nothing"),
        ({"a.gguf": "not really"}, "begins with b'not ', not with GGUF"),
        ({"a.gguf": ""}, r"a\.gguf: cannot be read"),
    ],
)
def test_what_is_no_checkpoint_is_described(tmp_path: Path, files: dict[str, str], message: str):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_a_path_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"nowhere: no such file or folder"):
        open_checkpoint(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of every format, and FlagAI's also in the container of old torch versions."""
    folder = tmp_path_factory.mktemp("sound")
    what = export(tiny_config(num_hidden_layers=1), tokenizer=tiny_tokenizer())
    paths = {kind: write(what, folder / kind, kind) for kind in ("native", "hf", "flagai", "gguf")}
    paths["old"] = write(what, folder / "old", "flagai")
    state = torch.load(paths["old"] / "pytorch_model.bin", weights_only=True)
    torch.save(state, paths["old"] / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    return paths


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("gguf", ""),
        ("hf", "config.json"),
        ("hf", "model.safetensors"),
        ("native", "manifest.json"),
        ("flagai", "config.json"),
        ("flagai", "pytorch_model.bin"),
        ("old", "pytorch_model.bin"),
    ],
)
@given(data=st.data())
def test_damage_anywhere_raises_nothing_but_our_errors(
    sound: dict[str, Path], kind: str, name: str, data: st.DataObject
):
    """Bytes flipped at either end of a file, where the structure is, and cuts."""
    file = sound[kind] / name
    content = file.read_bytes()
    damaged = bytearray(content)
    edge = min(len(content), 2500)
    for _ in range(data.draw(st.integers(0, 3))):
        position = data.draw(st.integers(-edge, edge - 1))
        damaged[position] = data.draw(st.integers(0, 255) | st.sampled_from(b'0123456789{}[]",:-eN'))
    file.write_bytes(damaged[: data.draw(st.just(len(damaged)) | st.integers(0, len(damaged)))])
    try:
        for tensor in open_checkpoint(sound[kind]).tensors.values():
            tensor.read(0, 1)
    except AquilaError:
        pass
    finally:
        file.write_bytes(content)
