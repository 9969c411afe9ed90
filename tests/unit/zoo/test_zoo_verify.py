import hashlib
import json

import pytest

from aquila.errors import ConfigError, IntegrityError
from aquila.zoo.pull import pull
from aquila.zoo.verify import check, verify

WEIGHTS = b"weights" * 1000


def write_manifest(folder, files):
    records = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    (folder / "manifest.json").write_text(json.dumps({"format": "x", "files": records}), encoding="utf-8")


@pytest.fixture
def native(tmp_path):
    """A folder as a native checkpoint writes it."""
    folder = tmp_path / "native"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    write_manifest(folder, {"model.safetensors": WEIGHTS})
    return folder


@pytest.fixture
def pulled(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "pytorch_model.bin").write_bytes(WEIGHTS)
    (source / "config.json").write_text("{}", encoding="utf-8")
    return pull("aquila-7b", source_path=str(source), environ={})


def statuses(findings):
    return {finding.file: finding.status for finding in findings}


def test_a_pulled_model_agrees_with_its_record(pulled):
    assert statuses(verify("aquila-7b")) == {"config.json": "ok", "pytorch_model.bin": "ok"}


def test_a_flipped_byte_a_short_file_and_a_missing_one_are_found(pulled):
    (pulled / "config.json").unlink()
    damaged = bytearray(WEIGHTS)
    damaged[77] ^= 1
    (pulled / "pytorch_model.bin").write_bytes(damaged)
    found = {finding.file: finding for finding in check(pulled)}
    assert found["config.json"].message == "is recorded in aquila.json and missing"
    assert "aquila.json says" in found["pytorch_model.bin"].message
    with pytest.raises(IntegrityError, match=r"config\.json: is recorded.*pytorch_model\.bin: sha256 is"):
        verify(pulled)
    (pulled / "pytorch_model.bin").write_bytes(WEIGHTS[:-1])
    with pytest.raises(IntegrityError, match=r"has 6999 bytes, aquila\.json says 7000"):
        verify(pulled)


def test_a_manifest_is_checked(native):
    assert statuses(verify(native)) == {"model.safetensors": "ok"}
    (native / "model.safetensors").write_bytes(WEIGHTS.replace(b"w", b"W", 1))
    with pytest.raises(IntegrityError, match=r"manifest\.json says"):
        verify(native / "model.safetensors")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"files": {"a": {"size": "many", "sha256": ""}}}', "files.a.size"),
        ('{"files": {"../a": {"size": 1, "sha256": ""}}}', "outside its folder"),
    ],
)
def test_a_damaged_manifest_is_named(native, text, message):
    (native / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(IntegrityError, match=message):
        verify(native)


def test_a_bare_file_is_told_apart_by_its_md5(home, tmp_path):
    """With the digests of the registry; here of an entry of the user's, since the real files have 14 GB."""
    text = f"""
models:
  - name: toy
    kind: base
    preset: tiny
    num_parameters: 1
    context_length: 2
    licence: {{name: L, url: "https://example.org", note: N.}}
    versions: [{{version: v1, md5: {hashlib.md5(WEIGHTS).hexdigest()}, changes: First.}}]
"""
    (home / "registry.yaml").write_text(text, encoding="utf-8")
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(WEIGHTS)
    assert [(finding.status, finding.message) for finding in verify(path)] == [("ok", "is toy v1, as published")]
    path.write_bytes(b"something else")
    assert statuses(verify(tmp_path)) == {"pytorch_model.bin": "unknown"}


def test_nothing_to_verify(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(IntegrityError, match="holds no model files"):
        verify(tmp_path / "empty")
    with pytest.raises(ConfigError, match="no such file or folder"):
        verify(tmp_path / "nowhere")
