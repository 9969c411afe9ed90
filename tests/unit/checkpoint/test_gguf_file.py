"""The GGUF container: every type, and every lie in a header."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given
from hypothesis import strategies as st

from aquila.checkpoint.gguf_file import read_gguf_file
from aquila.errors import AquilaError, CheckpointError, IntegrityError
from checkpoint_parts import export, tiny_config, tiny_tokenizer, write


def _can_dequantise(kind: GGMLQuantizationType) -> bool:
    if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        return False
    try:
        quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


TYPES = [kind for kind in gguf.GGML_QUANT_SIZES if _can_dequantise(kind)]


def _blocks(kind: GGMLQuantizationType, rows: int) -> np.ndarray:
    """Random blocks with two blocks a row."""
    width = 2 * gguf.GGML_QUANT_SIZES[kind][1]
    return np.random.default_rng(kind).integers(0, 256, (rows, width), np.uint8)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_every_type_dequantises_as_the_gguf_package_does(tmp_path: Path, kind: GGMLQuantizationType):
    path = tmp_path / "a.gguf"
    blocks = _blocks(kind, 5)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("w", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = read_gguf_file(path).tensors["w"]
    with np.errstate(all="ignore"):
        expected = quants.dequantize(blocks, kind)
    np.testing.assert_array_equal(tensor.numpy(np.dtype(np.float32)), expected)
    np.testing.assert_array_equal(tensor.read(1, 3).astype(np.float32), expected[1:3])
    if tensor.quantised:
        assert tensor.quantised.type == kind.name.lower()
        np.testing.assert_array_equal(tensor.quantised.rows.numpy(), blocks)


def test_metadata_equals_what_the_gguf_package_reads(tmp_path: Path):
    path = write(export(tiny_config(), tokenizer=tiny_tokenizer()), tmp_path / "a.gguf", "gguf")
    ours = read_gguf_file(path).metadata
    theirs = {
        name: field.contents() for name, field in gguf.GGUFReader(path).fields.items() if not name.startswith("GGUF.")
    }
    assert ours == theirs
    assert len(ours["tokenizer.ggml.tokens"]) == 320


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _tensor(name: str, shape: list[int], kind: int, offset: int) -> bytes:
    dims = struct.pack(f"<{len(shape)}Q", *shape)
    return _text(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", kind, offset)


def _file(path: Path, *, version: int = 3, keys: list[bytes] = [], tensors: list[bytes] = [], data: int = 64) -> Path:  # noqa: B006
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join([*keys, *tensors])
    path.write_bytes(header + bytes(-len(header) % 32 + data))
    return path


F32, Q8_0 = 0, 8


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([_tensor("w", [16], F32, 1 << 40)], r"'w' ends at byte \d+ but the file has \d+"),
        ([_tensor("w", [17], F32, 0)], r"'w' ends at byte \d+ but the file has \d+"),
        ([_tensor("w", [8], F32, 0), _tensor("v", [8], F32, 0)], "'v' is said to start .* overlaps 'w'"),
        ([_tensor("w", [4], F32, 4)], "starts? at data byte 4, .* not aligned to 32"),
        ([_tensor("w", [8], F32, 0), _tensor("w", [8], F32, 32)], "a tensor name is given twice"),
        ([_tensor("w", [1 << 40, 1 << 40], F32, 0)], "has shape"),
        ([_tensor("w", [0], F32, 0)], "has shape"),
        ([_tensor("w", [1] * 9, F32, 0)], "has 9 dimensions"),
        ([_tensor("w", [33, 1], Q8_0, 0)], r"shape \[1, 33\] cannot be stored in blocks of 32"),
        ([_tensor("w", [16], 999, 0)], "type 999 cannot be dequantised"),
        ([_tensor("w", [16], 26, 0)], "type 26 cannot be dequantised"),  # I32
    ],
)
def test_a_lying_tensor_directory_is_refused(tmp_path: Path, tensors: list[bytes], message: str):
    with pytest.raises(CheckpointError, match=message):
        read_gguf_file(_file(tmp_path / "a.gguf", tensors=tensors))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (_text("k") + struct.pack("<IQ", 8, 1 << 60), "needs 1152921504606846976 bytes"),
        (_text("k") + struct.pack("<IIQ", 9, 8, 1 << 60), "header needs"),
        (_text("k") + struct.pack("<IIQ", 9, 4, 1 << 60), "header needs"),
        (_text("k") + struct.pack("<IIQ", 9, 8, 2) + _text("a") + struct.pack("<Q", 1 << 50), "text 2 of 2"),
        (_text("k") + struct.pack("<IIQ", 9, 9, 1), "array type 9 .* is unknown"),
        (_text("k") + struct.pack("<I", 77), "value type 77 .* is unknown"),
        (struct.pack("<Q", 2) + b"\xff\xff" + struct.pack("<IB", 7, 1), "not UTF-8"),
        (_text("general.alignment") + struct.pack("<II", 4, 0), "general.alignment 0 is not a multiple of 8"),
    ],
)
def test_lying_metadata_is_refused(tmp_path: Path, key: bytes, message: str):
    with pytest.raises(CheckpointError, match=message):
        read_gguf_file(_file(tmp_path / "a.gguf", keys=[key]))


def test_a_key_given_twice_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="'k' is given twice"):
        read_gguf_file(_file(tmp_path / "a.gguf", keys=[_text("k") + struct.pack("<II", 4, 1)] * 2))


@pytest.mark.parametrize(("version", "message"), [(1, "version 1"), (4, "version 4"), (3 << 24, "big-endian")])
def test_other_versions_are_named(tmp_path: Path, version: int, message: str):
    with pytest.raises(CheckpointError, match=f"GGUF {message} is not supported"):
        read_gguf_file(_file(tmp_path / "a.gguf", version=version))


def test_counts_beyond_reason_are_refused(tmp_path: Path):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 50, 1 << 50))
    with pytest.raises(CheckpointError, match="claims 1125899906842624 tensors"):
        read_gguf_file(path)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, int]:
    """A damaged file to be, the sound content, and the length of its header."""
    path = tmp_path_factory.mktemp("sample") / "a.gguf"
    write(export(tiny_config(num_hidden_layers=1), tokenizer=tiny_tokenizer()), path, "gguf", "q8_0")
    data = int(gguf.GGUFReader(path).data_offset)
    return path.with_name("damaged.gguf"), path.read_bytes(), data


@given(data=st.data())
def test_damage_raises_nothing_but_our_errors(sample: tuple[Path, bytes, int], data: st.DataObject):
    """Flipped bytes in the header, and cuts anywhere: read, or refused with one clear line."""
    path, content, header = sample
    damaged = bytearray(content)
    structure = st.integers(0, 600) | st.integers(header - 700, header - 1) | st.integers(0, header - 1)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(structure)] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.just(len(damaged)) | st.integers(0, len(damaged)))])
    try:
        file = read_gguf_file(path)
    except AquilaError:
        return
    for tensor in file.tensors.values():
        tensor.numpy()


def test_a_cut_file_is_an_integrity_error(sample: tuple[Path, bytes, int]):
    path, content, header = sample
    for length in (10, header // 2, header, len(content) - 1000):
        path.write_bytes(content[:length])
        with pytest.raises(IntegrityError, match=f"file has {length}|of {length};"):
            read_gguf_file(path)
