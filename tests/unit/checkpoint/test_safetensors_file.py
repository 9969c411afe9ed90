"""The safetensors container: what is written, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from aquila.checkpoint.safetensors_file import read_safetensors, write_safetensors
from aquila.checkpoint.tensors import DTYPES, from_array
from aquila.errors import AquilaError, CheckpointError, IntegrityError
from checkpoint_parts import assert_equal, random_tensors, tiny_config


def _write(path: Path, header: Any, data: bytes = bytes(64)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def _entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_the_safetensors_package_reads_what_we_write(tmp_path: Path, dtype: str):
    tensors = random_tensors(tiny_config(), dtype)
    written: list[int] = []
    write_safetensors(tmp_path / "a.safetensors", tensors, DTYPES[dtype], written.append)
    theirs = safetensors.torch.load_file(tmp_path / "a.safetensors")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(theirs[name].float().numpy(), tensor.numpy(DTYPES["fp32"]))
    assert sum(written) == sum(tensor.nbytes for tensor in tensors.values())


def test_we_read_what_the_safetensors_package_writes(tmp_path: Path):
    weights = {"b": torch.randn(3, 5).bfloat16(), "a": torch.randn(4)}
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors", metadata={"format": "pt"})
    ours = read_safetensors(tmp_path / "a.safetensors")
    for name, weight in weights.items():
        np.testing.assert_array_equal(ours[name].numpy(DTYPES["fp32"]), weight.float().numpy())
        np.testing.assert_array_equal(ours[name].mapped, ours[name].numpy())


def test_writing_twice_gives_the_same_bytes_and_the_digest_of_them(tmp_path: Path):
    import hashlib

    tensors = random_tensors(tiny_config())
    digests = [write_safetensors(tmp_path / name, tensors, DTYPES["fp16"], lambda n: None) for name in ("a", "b")]
    assert digests == [hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()] * 2
    assert_equal(read_safetensors(tmp_path / "b"), read_safetensors(tmp_path / "a"))


def test_data_begins_at_a_multiple_of_64(tmp_path: Path):
    """Loaders that use the file in place need aligned numbers."""
    write_safetensors(tmp_path / "a", {"w": from_array(np.ones(3, np.float32))}, DTYPES["fp32"], lambda n: None)
    assert (8 + int.from_bytes((tmp_path / "a").read_bytes()[:8], "little")) % 64 == 0


def test_changing_a_mapped_tensor_leaves_the_file_alone(tmp_path: Path):
    """Mapped arrays are writable, as torch.from_numpy demands, but private."""
    path = _write(tmp_path / "a", {"w": _entry(0, 64, [16])})
    mapped = read_safetensors(path)["w"].mapped
    assert mapped is not None
    torch.from_numpy(mapped).fill_(3)
    assert not read_safetensors(path)["w"].numpy().any()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"w": _entry(0, 64, [17])}, r"'w': offsets 0\.\.64 hold 64 bytes, shape \[17\] of F32 takes 68"),
        ({"w": _entry(0, 64, [16]), "v": _entry(32, 64, [8])}, r"'v' starts at data byte 32 but .* ends at 64"),
        ({"w": _entry(4, 64, [15])}, r"'w' starts at data byte 4 but the one before ends at 0"),
        ({"w": _entry(0, 60, [15])}, "4 bytes belong to no tensor"),
        ({"w": _entry(0, 64, [64], "F8_E4M3")}, "dtype 'F8_E4M3' is not supported"),
        ({"w": _entry(0, 64, [-4, -4])}, r"shape \[-4, -4\] .* cannot be"),
        ({"w": _entry(0, 64, [16.0])}, "cannot be"),  # ty: ignore[invalid-argument-type]
        ({"w": {"dtype": "F32"}}, "lacks dtype, shape or data_offsets"),
        ({"w": _entry(0, 1 << 61, [1 << 59])}, r"\d+ bytes expected, \d+ found: it is truncated"),
        (b'{"w": 1, "w": 2}', "'w' is given twice"),
        (b'{"w": ', "is not valid JSON"),
        (b"[1]", "holds a JSON list where an object is expected"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
    ],
)
def test_a_lying_header_is_refused(tmp_path: Path, header: Any, message: str):
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(_write(tmp_path / "a", header))


def test_a_truncated_file_says_how_much_is_missing(tmp_path: Path):
    path = _write(tmp_path / "a", {"w": _entry(0, 64, [16])})
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(IntegrityError, match=f"{size} bytes expected, {size - 10} found"):
        read_safetensors(path)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 100])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_safetensors(tmp_path / "a")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("sample") / "a.safetensors"
    tensors = random_tensors(tiny_config(num_hidden_layers=1))
    write_safetensors(path, tensors, DTYPES["fp16"], lambda n: None)
    return path.with_name("damaged"), path.read_bytes()


@given(data=st.data())
def test_damage_raises_nothing_but_our_errors(sample: tuple[Path, bytes], data: st.DataObject):
    """Flipped bytes in the header, and cuts anywhere: read, or refused with one clear line."""
    path, content = sample
    damaged = bytearray(content)
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))])
    try:
        tensors = read_safetensors(path)
    except AquilaError:
        return
    for tensor in tensors.values():
        tensor.numpy()
