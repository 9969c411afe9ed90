"""Packed weights against the `gguf` package: the same numbers, only moved."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from aquila.errors import CheckpointError
from aquila.kernels.formats import (
    FORMATS,
    GROUP_ROWS,
    dequantise,
    num_groups,
    pack_blocks,
    pack_rows,
    quantise_rows,
    unpack_blocks,
)

BLOCKS = ("w4", "w4m", "w8")
VALUES = {
    "random": np.random.default_rng(1).standard_normal((16, 64), np.float32),
    "zeros": np.zeros((16, 64), np.float32),
    "minus zero": np.full((16, 64), -0.0, np.float32),
    "all equal": np.full((16, 64), 3.3, np.float32),
    "all equal, negative": np.full((16, 64), -3.3, np.float32),
    "opposite peaks": np.tile(np.array([1, -1, 0.5, -0.5], np.float32), (16, 16)),
    "opposite peaks, negative first": np.tile(np.array([-1, 1, 0.5, -0.5], np.float32), (16, 16)),
    "half steps": np.arange(-512, 512, dtype=np.float32).reshape(16, 64) / 2,
    "scale below fp16": np.random.default_rng(2).standard_normal((16, 64), np.float32) * np.float32(1e-9),
    "large": np.random.default_rng(3).standard_normal((16, 64), np.float32) * np.float32(1e4),
    "one": np.eye(16, 64, dtype=np.float32) * np.float32(-7.5),
}


def gguf_rows(format_name: str, values: np.ndarray) -> np.ndarray:
    return quants.quantize(values, GGMLQuantizationType[FORMATS[format_name].gguf_type])


def gguf_values(format_name: str, rows: np.ndarray) -> np.ndarray:
    return quants.dequantize(rows, GGMLQuantizationType[FORMATS[format_name].gguf_type])


def squared_error(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of each Q4_0 block."""
    return np.square(gguf_values("w4", rows).astype(np.float64) - values).reshape(-1, 32).sum(axis=1)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("format_name", BLOCKS)
def test_absmax_rounding_gives_the_bytes_of_gguf(format_name: str, name: str):
    values = VALUES[name]
    np.testing.assert_array_equal(quantise_rows(format_name, values), gguf_rows(format_name, values))


@pytest.mark.parametrize("format_name", BLOCKS)
def test_denormal_weights_are_zero_as_in_gguf(format_name: str):
    """Their inverse scale overflows, so that codes are undefined there; the values are not."""
    rows = quantise_rows(format_name, np.full((16, 64), -1e-40, np.float32))
    assert not dequantise(format_name, pack_blocks(format_name, rows), 16, 64).any()


@pytest.mark.parametrize("shape", [(16, 32), (48, 576), (5, 64), (33, 96), (1, 32)])
@pytest.mark.parametrize("format_name", FORMATS)
def test_packing_gguf_rows_loses_nothing(format_name: str, shape: tuple[int, int]):
    """Any bytes: a file may hold what no rounding would give."""
    rows, columns = shape
    layout = FORMATS[format_name]
    blocks = np.random.default_rng(0).integers(0, 256, (rows, layout.row_bytes(columns)), np.uint8)
    packed = pack_blocks(format_name, blocks)
    assert packed.shape == (num_groups(rows), layout.group_bytes(columns))
    assert packed.nbytes == layout.matrix_bytes(rows, columns)
    np.testing.assert_array_equal(unpack_blocks(format_name, packed, rows, columns), blocks)


@pytest.mark.parametrize("format_name", BLOCKS)
def test_values_are_those_that_gguf_reads(format_name: str):
    rows = gguf_rows(format_name, np.random.default_rng(0).standard_normal((21, 96), np.float32))
    found = dequantise(format_name, pack_blocks(format_name, rows), 21, 96)
    np.testing.assert_array_equal(found, gguf_values(format_name, rows))


@pytest.mark.parametrize("format_name", ["f32", "f16", "bf16"])
def test_plain_formats_hold_the_nearest_value_column_by_column(format_name: str):
    values = np.random.default_rng(0).standard_normal((20, 7), np.float32)
    packed = pack_rows(format_name, values)
    rounded = values.astype(FORMATS[format_name].dtype)
    first = packed[0].view(rounded.dtype).reshape(7, GROUP_ROWS)
    np.testing.assert_array_equal(first, rounded[:GROUP_ROWS].T)
    np.testing.assert_array_equal(dequantise(format_name, packed, 20, 7), rounded.astype(np.float32))


def test_a_w4_code_lies_where_the_kernels_look_for_it():
    """Block 1, vector 2: columns 48 to 51 in the low nibbles, 52 to 55 in the high ones; then four bytes a row."""
    blocks = np.zeros((16, 36), np.uint8)
    blocks[3, 18:20] = np.array([0.5], np.float16).view(np.uint8)
    blocks[3, 18 + 2 + 1] = 0xA0  # column 32 + 16 + 1
    blocks[3, 18 + 2 + 6] = 0xB0  # column 32 + 16 + 6
    packed = pack_blocks("w4", blocks)[0]
    scales, codes = packed[:64].view(np.float16).reshape(2, 16), packed[64:].reshape(2, 4, 16, 4)
    assert (scales[1, 3], np.count_nonzero(scales)) == (0.5, 1)
    assert (codes[1, 2, 3].tolist(), np.count_nonzero(codes)) == ([0, 0x0A, 0xB0, 0], 2)


def test_a_w8_code_lies_where_the_kernels_look_for_it():
    blocks = np.zeros((16, 34), np.uint8)
    blocks[5, 2 + 9] = 0xFF  # column 9: minus one
    codes = pack_blocks("w8", blocks)[0, 32:].reshape(8, 16, 4)
    assert codes[2, 5].tolist() == [128, 127, 128, 128]
    assert np.count_nonzero(codes != 128) == 1


@pytest.mark.parametrize(("format_name", "code"), [("w4", 0), ("w4m", 0), ("w8", 128)])
def test_missing_rows_and_columns_have_scale_and_code_zero(format_name: str, code: int):
    """Columns beyond the matrix neither move the scale of their block nor weigh in a product."""
    values = np.random.default_rng(0).standard_normal((3, 40), np.float32) + 5
    packed = pack_rows(format_name, values)
    layout = FORMATS[format_name]
    num_heads = 2 if format_name == "w4m" else 1
    head = packed[0, : 64 * num_heads].view(np.float16).reshape(num_heads * 2, 16)
    assert not head[:, 3:].any()
    codes = packed[0, 64 * num_heads :].reshape(2, -1, 16, 4)
    assert (codes[:, :, 3:] == code).all()
    beyond = 1 if format_name != "w8" else 2  # vectors that hold the eight columns of the second block
    assert (codes[1, beyond:] == code).all()
    step = np.abs(values).max() / {"w4": 8, "w4m": 15, "w8": 127}[format_name]
    assert np.abs(dequantise(format_name, packed, 3, 40) - values).max() <= step
    assert layout.matrix_bytes(3, 40) == packed.nbytes


@pytest.mark.parametrize("name", VALUES)
def test_the_search_is_never_worse_than_absmax(name: str):
    values = VALUES[name]
    searched = squared_error(values, quantise_rows("w4", values, rounding="search"))
    plain = squared_error(values, gguf_rows("w4", values))
    assert (searched <= plain * (1 + 1e-5)).all()


def test_the_search_takes_a_tenth_off_the_squared_error_of_normal_weights():
    values = np.random.default_rng(0).standard_normal((256, 512), np.float32)
    searched = squared_error(values, quantise_rows("w4", values, rounding="search")).sum()
    assert searched < 0.9 * squared_error(values, gguf_rows("w4", values)).sum()


def test_the_search_spares_the_columns_that_matter():
    values = np.random.default_rng(0).standard_normal((64, 70), np.float32)
    importance = np.ones(70, np.float32)
    importance[::7] = 100
    plain = dequantise("w4", pack_rows("w4", values, rounding="search"), 64, 70)
    weighted = dequantise("w4", pack_rows("w4", values, rounding="search", importance=importance), 64, 70)
    errors = [(np.square(found - values) * importance).sum() for found in (weighted, plain)]
    assert errors[0] < 0.8 * errors[1]


@given(st_numpy.arrays(np.float32, (2, 64), elements=st.floats(-1e5, 1e5, width=32)))
def test_any_values_come_back_within_half_a_step(values: np.ndarray):
    """A step is a 127th of the largest value of the block, where that fits fp16's finest."""
    found = dequantise("w8", pack_rows("w8", values), 2, 64)
    peak = np.abs(values).reshape(2, 2, 32).max(axis=2, keepdims=True)
    error = np.abs(found - values).reshape(2, 2, 32)
    assert (error <= peak * (0.5 / 127 + 1e-3) + 127 * 2**-24).all()


@pytest.mark.parametrize(
    ("format_name", "value", "advice"),
    [
        ("w4", np.nan, "nan does not fit w4; the weights are damaged"),
        ("w8", -np.inf, "-inf does not fit w8; the weights are damaged"),
        ("f32", np.inf, "inf does not fit f32; the weights are damaged"),
        ("w4", 1e6, r"1e\+06 does not fit w4; choose bf16 or f32"),
        ("w4m", -7e4, "70000 does not fit w4m; choose bf16 or f32"),
        ("f16", 65520, "65520 does not fit f16; choose bf16 or f32"),
    ],
)
def test_values_that_a_format_cannot_hold_are_named(format_name: str, value: float, advice: str):
    values = np.ones((16, 64), np.float32)
    values[3, 40] = value
    with pytest.raises(CheckpointError, match=f"^mlp: the value {advice}"):
        pack_rows(format_name, values, name="mlp")
