"""Products of the native kernels against kernels/reference.py, on every instruction set and in every format."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.kernels import reference
from aquila.kernels.formats import FORMATS, GROUP_ROWS, dequantise, num_blocks, pack_blocks, quantise_rows
from aquila.kernels.native import native_module, usable_kernels

native = native_module()
pytestmark = pytest.mark.skipif(native is None, reason="the native kernels are not built")

KERNELS = usable_kernels()
BLOCKS = ("w4", "w4m", "w8")
PLAIN = ("f32", "f16", "bf16")
TOKENS = (1, 2, 3, 4, 5, 6, 7, 8, 13, 33)
SHAPES = ((16, 32), (1, 1), (1, 64), (33, 32), (40, 100), (100, 96), (17, 31), (5, 257), (128, 640))
# fp32 sums of n terms, in whatever order, are off by at most n * 2^-24 of the sum of their sizes (Higham 2002,
# eq. 3.5); a block is one term and three roundings, and what is below the normal numbers becomes a multiple of 2^-149
EPSILON = 2.0**-24


def tolerance(format_name: str, columns: int, sizes: np.ndarray) -> np.ndarray:
    terms = 2 * num_blocks(columns) + 4 if FORMATS[format_name].block_bytes else columns + 2
    return terms * (EPSILON * sizes + 2.0**-149)


def multiply(kernels: str, format_name: str, packed: np.ndarray, rows: int, inputs: np.ndarray) -> np.ndarray:
    out = np.full((len(inputs), rows), 7.0, np.float32)
    native.product(kernels, format_name, packed.ravel(), rows, np.ascontiguousarray(inputs, np.float32), out)
    return out


def check(format_name: str, packed: np.ndarray, rows: int, inputs: np.ndarray) -> None:
    """Every instruction set gives the reference's product, and each token what it gives alone."""
    expected, sizes = reference.product(format_name, packed, rows, inputs)
    for kernels in KERNELS:
        found = multiply(kernels, format_name, packed, rows, inputs)
        error = np.abs(found - expected)
        allowed = tolerance(format_name, inputs.shape[1], sizes)
        assert (error <= allowed).all(), (kernels, float((error / allowed).max()), error.argmax())
        alone = [multiply(kernels, format_name, packed, rows, row[None])[0] for row in inputs]
        np.testing.assert_array_equal(found, alone, err_msg=kernels)


@cache
def packed_weights(format_name: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Random numbers, rounded to the format."""
    values = np.random.default_rng(seed).standard_normal((rows, columns), np.float32)
    return pack_blocks(format_name, quantise_rows(format_name, values))


def all_codes(format_name: str, low: int, scale: float) -> np.ndarray:
    """Sixteen rows of 64 columns whose codes are all `low`, `low` + 1 ... by row. The scale alternates."""
    code_bytes = 32 if format_name == "w8" else 16
    rows = np.empty((16, 2, FORMATS[format_name].block_bytes), np.uint8)
    rows[..., :2] = np.array([scale, -scale], np.float16).view(np.uint8).reshape(2, 2)
    if format_name == "w4m":
        rows[..., 2:4] = np.array([-2.0, 3.0], np.float16).view(np.uint8).reshape(2, 2)
    codes = np.arange(low, low + 16).astype(np.uint8)
    rows[..., -code_bytes:] = (codes if format_name == "w8" else codes * 17)[:, None, None]
    return pack_blocks(format_name, rows.reshape(16, -1))


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_and_number_of_tokens(format_name: str, shape: tuple[int, int]):
    rows, columns = shape
    packed = packed_weights(format_name, rows, columns)
    inputs = np.random.default_rng(1).standard_normal((max(TOKENS), columns), np.float32)
    whole = {kernels: multiply(kernels, format_name, packed, rows, inputs) for kernels in KERNELS}
    check(format_name, packed, rows, inputs)
    for count in TOKENS:
        for kernels in KERNELS:
            found = multiply(kernels, format_name, packed, rows, inputs[:count])
            np.testing.assert_array_equal(found, whole[kernels][:count], err_msg=f"{kernels}, {count} tokens")


def extreme_inputs() -> dict[str, np.ndarray]:
    """Rows of 64 columns, two blocks."""
    generator = np.random.default_rng(2)
    normal = generator.standard_normal((3, 64), np.float32)
    spike = np.zeros((64, 64), np.float32)
    np.fill_diagonal(spike, generator.choice([-3.0, 3.0], 64))
    signs = generator.choice(np.array([-1, 1], np.float32), (3, 64))
    return {
        "zeros": np.zeros((2, 64), np.float32),
        "minus zeros": np.full((2, 64), -0.0, np.float32),
        "all equal": np.full((2, 64), 0.7, np.float32),
        "all equal, negative": np.full((2, 64), -0.7, np.float32),
        "the largest codes, any sign": 5 * signs,
        "one spike": spike,
        "a spike among small ones": normal * np.float32(1e-3) + spike[:3],
        "half steps": (np.arange(-127, 129, dtype=np.float32).reshape(4, 64) / 2).clip(-63.5, 63.5),
        "denormal": normal * np.float32(1e-40),
        "the smallest": np.full((2, 64), 2.0**-149, np.float32),
        "at the limit of zero": np.full((3, 64), 1e-30, np.float32) * np.array([[0.9], [1], [1.1]], np.float32),
        "huge": normal * np.float32(1e30),
        "one block huge, one tiny": normal * np.repeat(np.array([1e30, 1e-30], np.float32), 32),
    }


@pytest.mark.parametrize("name", extreme_inputs())
@pytest.mark.parametrize("format_name", FORMATS)
def test_extreme_inputs(format_name: str, name: str):
    inputs = extreme_inputs()[name]
    check(format_name, packed_weights(format_name, 20, 64), 20, inputs)


@pytest.mark.parametrize("format_name", BLOCKS)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_largest_codes_do_not_overflow(format_name: str, sign: float):
    """All weights at one code, up to the largest nibble or -128, with all inputs at the largest code.

    Sums of 16 bits (AVX2's) would wrap at 17 products of 15 * 127, and saturate at two of 255 * 127.
    """
    inputs = np.full((7, 64), sign, np.float32)
    for low in (-128, 112) if format_name == "w8" else (0,):
        check(format_name, all_codes(format_name, low, scale=0.5), 16, inputs)


@pytest.mark.parametrize("format_name", BLOCKS)
@pytest.mark.parametrize("scale", [0.0, 6e-8, 65504.0])
def test_scales_at_the_ends_of_half_precision(format_name: str, scale: float):
    inputs = np.random.default_rng(3).standard_normal((7, 64), np.float32)
    check(format_name, all_codes(format_name, 0, scale), 16, inputs)


@given(data=st.data())
@pytest.mark.parametrize("format_name", BLOCKS)
def test_any_bytes_are_weights(format_name: str, data: st.DataObject):
    """Random bytes of a file: every code, scales of any finite size."""
    rows, blocks = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 3))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    layout = FORMATS[format_name]
    content = generator.integers(0, 256, (rows, blocks, layout.block_bytes), np.uint8)
    exponents = generator.integers(0, 31, (rows, blocks, 2))  # 31 would be infinite
    halves = (exponents << 10 | generator.integers(0, 1024, exponents.shape)).astype(np.uint16)
    halves[generator.random(halves.shape) < 0.5] |= 0x8000
    content[..., :2] = halves[..., :1].view(np.uint8)
    if format_name == "w4m":
        content[..., 2:4] = halves[..., 1:].copy().view(np.uint8)
    tokens = data.draw(st.integers(1, 14))
    inputs = generator.standard_normal((tokens, blocks * 32), np.float32)
    inputs *= np.float32(10.0) ** generator.integers(-6, 7, (tokens, 1)).astype(np.float32)
    check(format_name, pack_blocks(format_name, content.reshape(rows, -1)), rows, inputs)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 15, 16, 31, 32, 99])
def test_an_input_that_is_no_number_is_seen(format_name: str, value: float, place: int):
    """Its token gives NaN (or, in plain formats, infinities) in every row; the tokens beside it are what they are."""
    packed = packed_weights(format_name, 40, 100)
    inputs = np.random.default_rng(4).standard_normal((8, 100), np.float32)
    clean = {kernels: multiply(kernels, format_name, packed, 40, inputs) for kernels in KERNELS}
    inputs[5, place] = value
    for kernels in KERNELS:
        found = multiply(kernels, format_name, packed, 40, inputs)
        assert not np.isfinite(found[5]).any()
        if format_name in BLOCKS:
            assert np.isnan(found[5]).all()
        others = np.arange(8) != 5
        np.testing.assert_array_equal(found[others], clean[kernels][others])


@pytest.mark.parametrize("format_name", BLOCKS)
def test_the_largest_numbers_give_a_product_or_nan(format_name: str):
    """Never one that is finite and wrong."""
    packed = packed_weights(format_name, 16, 32)
    inputs = np.zeros((4, 32), np.float32)
    inputs[:, 3] = (1e37, -3.4028235e38, 3.39e38, -1e38)
    with np.errstate(over="ignore"):
        expected, sizes = reference.product(format_name, packed, 16, inputs)
    for kernels in KERNELS:
        found = multiply(kernels, format_name, packed, 16, inputs).astype(np.float64)
        finite = np.isfinite(found)
        assert (np.abs(found - expected)[finite] <= tolerance(format_name, 32, sizes)[finite]).all()
        assert finite[0].all()
        assert np.isnan(found[1]).all()


def test_activations_are_rounded_to_the_nearest_code():
    """The reference's own rounding: no input is off by more than half a step, halves go to the even code."""
    inputs = np.random.default_rng(5).standard_normal((4, 100), np.float32)
    codes, scales = reference.round_activations(inputs)
    wide = np.zeros((4, 128))
    wide[:, :100] = inputs
    off = np.abs(codes * scales[..., None].astype(np.float64) - wide.reshape(4, 4, 32))
    assert (off <= scales[..., None] * 0.5001).all()
    assert (np.abs(codes).max(axis=-1) == 127).all()
    steps = np.zeros((1, 32), np.float32)
    steps[0, :5] = (127, 0.5, 1.5, 2.5, -3.5)
    assert reference.round_activations(steps)[0][0, 0, :5].tolist() == [127, 0, 2, 2, -4]


@pytest.mark.parametrize("format_name", BLOCKS)
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("blocks", [1, 3])
def test_packing_equals_the_python_twin(format_name: str, rows: int, blocks: int):
    shape = (rows, blocks * FORMATS[format_name].block_bytes)
    content = np.random.default_rng(rows).integers(0, 256, shape, np.uint8)
    expected = pack_blocks(format_name, content).ravel()
    out = np.full(expected.size, 0x55, np.uint8)
    native.pack_blocks(format_name, content, out)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("format_name", PLAIN)
@pytest.mark.parametrize("shape", [(1, 1), (16, 5), (17, 32), (40, 7)])
def test_interleaving_equals_the_python_twin(format_name: str, shape: tuple[int, int]):
    itemsize = FORMATS[format_name].row_bytes(1)
    content = np.random.default_rng(6).integers(0, 256, (*shape, itemsize), np.uint8)
    expected = pack_blocks(format_name, content.reshape(shape[0], -1)).ravel()
    out = np.full(expected.size, 0x55, np.uint8)
    native.interleave(content, out)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("format_name", "rows", "columns", "message"),
    [("w4", 17, 32, "fewer bytes"), ("w4", 16, 33, "fewer bytes"), ("q4", 16, 32, "no weight format 'q4'")],
)
def test_products_that_would_read_past_the_weights_are_refused(format_name: str, rows: int, columns: int, message: str):
    packed = packed_weights("w4", 16, 32).ravel()
    with pytest.raises(ValueError, match=message):
        native.product(
            "", format_name, packed, rows, np.zeros((2, columns), np.float32), np.zeros((2, rows), np.float32)
        )
    with pytest.raises(ValueError, match="out is"):
        native.product("", "w4", packed, 16, np.zeros((2, 32), np.float32), np.zeros((2, 15), np.float32))


@pytest.mark.parametrize("format_name", BLOCKS)
def test_packing_refuses_what_is_no_rows_of_blocks(format_name: str):
    size = FORMATS[format_name].block_bytes
    with pytest.raises(ValueError, match="not whole blocks"):
        native.pack_blocks(format_name, np.zeros((16, size + 1), np.uint8), np.zeros(16 * size, np.uint8))
    with pytest.raises(ValueError, match="another size"):
        native.pack_blocks(format_name, np.zeros((17, size), np.uint8), np.zeros(GROUP_ROWS * size, np.uint8))
    with pytest.raises(ValueError, match="2 or 4 bytes"):
        native.interleave(np.zeros((16, 2, 8), np.uint8), np.zeros(16 * 16, np.uint8))


def test_padding_is_not_written():
    """Rows that fill no group have no room behind them."""
    packed = packed_weights("w4", 17, 32)
    inputs = np.ones((2, 32), np.float32)
    room = np.full((3, 17), 7.0, np.float32)
    for kernels in KERNELS:
        native.product(kernels, "w4", packed.ravel(), 17, inputs, room[:2])
        assert (room[2] == 7).all()
        np.testing.assert_array_equal(room[0], room[1])
    assert dequantise("w4", packed, 17, 32).shape == (17, 32)


@pytest.mark.parametrize("format_name", BLOCKS)
def test_more_tokens_than_one_sweep_of_a_panel_takes(format_name: str):
    """Many tokens go through unpacked panels: 16 blocks of columns, 258 tokens at a time, pairs of groups."""
    rows, columns, tokens = 48, 33 * 32 - 5, 300
    packed = packed_weights(format_name, rows, columns)
    check(format_name, packed, rows, np.random.default_rng(9).standard_normal((tokens, columns), np.float32))


@pytest.mark.parametrize("format_name", BLOCKS)
def test_extreme_inputs_in_company(format_name: str):
    """As many tokens as go through a panel."""
    packed = packed_weights(format_name, 48, 64, seed=3)
    inputs = np.concatenate(list(extreme_inputs().values()))
    assert len(inputs) > 43
    check(format_name, packed, 48, inputs)
