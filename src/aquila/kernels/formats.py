"""Packed weights: how a matrix lies in memory for the native kernels. The numpy twin of the C++.

A matrix `[rows, columns]` is cut into groups of 16 rows, each one contiguous run of bytes; missing rows are zero. Plain
formats hold a group column by column, 16 values each. Block formats hold the same numbers as the GGUF type they are
named beside, so that one becomes the other without loss; their columns are padded to B whole blocks of 32:

    w4   [B, 16] fp16 scales, [B, 4, 16, 4] bytes      (code - 8) * scale             Q4_0
    w4m  scales, [B, 16] fp16 minima, bytes as w4      code * scale + minimum         Q4_1
    w8   scales, [B, 8, 16, 4] bytes                   (byte - 128) * scale           Q8_0

Byte j of row r in vector g of a 4-bit block: column 8g + j in the low nibble, 8g + 4 + j in the high one; of an 8-bit
block: column 4g + j. A GGUF block (32 columns of a row) is its scale, its minimum, and 16 bytes with columns j and
16 + j, or 32 signed bytes.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from aquila.errors import CheckpointError
from aquila.kernels.rounding import BLOCK, Rounding, quantise_q4_0, quantise_q4_1, quantise_q8_0

GROUP_ROWS = 16
VECTOR = "vector"  # what is no matrix (norms, biases): float32 in plain order
_LOW = np.uint32(0x0F0F0F0F)
_HIGH = np.uint32(0xF0F0F0F0)
_FOUR = np.uint32(4)
_SIGN = np.uint32(0x80808080)


@dataclass(frozen=True)
class PackedFormat:
    """One way to lay out a matrix, and the GGUF type whose rows it permutes.

    Attributes:
        dtype: of a plain format; None for blocks.
        block_bytes: of 32 columns of a row; 0 for a plain format.
    """

    name: str
    gguf_type: str
    dtype: np.dtype | None = None
    block_bytes: int = 0

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.dtype.itemsize if self.dtype is not None else 8 * self.block_bytes / BLOCK

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row, as GGUF would hold it with its columns padded to whole blocks."""
        if self.dtype is not None:
            return columns * self.dtype.itemsize
        return num_blocks(columns) * self.block_bytes

    def group_bytes(self, columns: int) -> int:
        """Bytes of a group of 16 rows."""
        return GROUP_ROWS * self.row_bytes(columns)

    def matrix_bytes(self, rows: int, columns: int) -> int:
        return num_groups(rows) * self.group_bytes(columns)


FORMATS: dict[str, PackedFormat] = {
    item.name: item
    for item in (
        PackedFormat("f32", "F32", dtype=np.dtype(np.float32)),
        PackedFormat("f16", "F16", dtype=np.dtype(np.float16)),
        PackedFormat("bf16", "BF16", dtype=np.dtype(ml_dtypes.bfloat16)),
        PackedFormat("w4", "Q4_0", block_bytes=18),
        PackedFormat("w4m", "Q4_1", block_bytes=20),
        PackedFormat("w8", "Q8_0", block_bytes=34),
    )
}


def num_groups(rows: int) -> int:
    return -(-rows // GROUP_ROWS)


def num_blocks(columns: int) -> int:
    return -(-columns // BLOCK)


def quantise_rows(
    format_name: str,
    values: np.ndarray,
    *,
    rounding: Rounding = "absmax",
    importance: np.ndarray | None = None,
    name: str = "a tensor",
) -> np.ndarray:
    """Rows of the GGUF type that belongs to a format, uint8 `[rows, row_bytes]`, columns padded to whole blocks.

    Args:
        format_name: a key of FORMATS.
        values: float32 `[rows, columns]`.
        rounding: "absmax" gives the bytes that GGUF's own rounding gives; "search" looks for the scale of each w4
            block that leaves the least squared error (other formats have no such choice).
        importance: float32 `[columns]`, what an error in each column weighs in that search.
        name: of the tensor, for errors.

    Raises:
        CheckpointError: a value is not finite, or too large for the format.
    """
    layout = FORMATS[format_name]
    values = np.ascontiguousarray(values, np.float32)
    with np.errstate(all="ignore"):  # what overflows or is no number is reported below
        if layout.dtype is not None:
            plain = values.astype(layout.dtype)
            out, scales = plain.view(np.uint8).reshape(len(values), -1), plain
        else:
            if format_name == "w4":
                out = quantise_q4_0(values, rounding=rounding, importance=importance)
            else:
                out = (quantise_q4_1 if format_name == "w4m" else quantise_q8_0)(values)
            num_halves = 2 if format_name == "w4m" else 1
            scales = out.reshape(-1, layout.block_bytes)[:, : 2 * num_halves].copy().view(np.float16)
        sound = bool(np.isfinite(scales).all())
    if not sound:
        bad = values[~np.isfinite(values)]
        found = float(bad[0]) if bad.size else float(np.abs(values).max())
        advice = "the weights are damaged, fetch them again" if bad.size else "choose bf16 or f32"
        raise CheckpointError(f"{name}: the value {found:.6g} does not fit {format_name}; {advice}")
    return out


def pack_rows(
    format_name: str,
    values: np.ndarray,
    *,
    rounding: Rounding = "absmax",
    importance: np.ndarray | None = None,
    name: str = "a tensor",
) -> np.ndarray:
    """Packs float32 `[rows, columns]`: uint8 `[groups, group_bytes]`. See `quantise_rows` for the arguments."""
    return pack_blocks(
        format_name, quantise_rows(format_name, values, rounding=rounding, importance=importance, name=name)
    )


def pack_blocks(format_name: str, rows: np.ndarray) -> np.ndarray:
    """Packs rows of GGUF's type, uint8 `[rows, row_bytes]`, without loss: uint8 `[groups, group_bytes]`."""
    layout = FORMATS[format_name]
    missing = -len(rows) % GROUP_ROWS
    if missing:
        rows = np.concatenate([rows, np.zeros((missing, rows.shape[1]), np.uint8)])
    groups = len(rows) // GROUP_ROWS
    if layout.dtype is not None:
        unit = f"u{layout.dtype.itemsize}"
        values = np.ascontiguousarray(rows).view(unit).reshape(groups, GROUP_ROWS, -1)
        return np.ascontiguousarray(values.transpose(0, 2, 1)).view(np.uint8).reshape(groups, -1)
    blocks = rows.reshape(groups, GROUP_ROWS, -1, layout.block_bytes)
    num_halves = 2 if format_name == "w4m" else 1
    count = blocks.shape[2]
    out = np.empty((groups, GROUP_ROWS * count * layout.block_bytes), np.uint8)
    head = count * GROUP_ROWS * 2
    for index in range(num_halves):  # the scales, then the minima
        half = np.ascontiguousarray(blocks[..., 2 * index : 2 * index + 2]).view(np.uint16)[..., 0]
        out[:, index * head : (index + 1) * head].view(np.uint16).reshape(groups, count, GROUP_ROWS)[...] = (
            half.transpose(0, 2, 1)
        )
    words = np.ascontiguousarray(blocks[..., 2 * num_halves :]).view(np.uint32)  # [groups, 16, B, 4 or 8]
    vectors = words ^ _SIGN if format_name == "w8" else _nibbles_from_gguf(words)
    codes = out[:, num_halves * head :].view(np.uint32).reshape(groups, count, -1, GROUP_ROWS)
    codes[...] = vectors.transpose(0, 2, 3, 1)
    return out


def unpack_blocks(format_name: str, packed: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The inverse of `pack_blocks`: `rows` rows in GGUF's type, uint8 `[rows, row_bytes]`, from whole groups."""
    layout = FORMATS[format_name]
    groups = num_groups(rows)
    packed = np.ascontiguousarray(packed).reshape(groups, layout.group_bytes(columns))
    if layout.dtype is not None:
        values = packed.view(f"u{layout.dtype.itemsize}").reshape(groups, columns, GROUP_ROWS)
        out = np.ascontiguousarray(values.transpose(0, 2, 1)).view(np.uint8)
        return out.reshape(groups * GROUP_ROWS, -1)[:rows]
    count = num_blocks(columns)
    num_halves = 2 if format_name == "w4m" else 1
    blocks = np.empty((groups, GROUP_ROWS, count, layout.block_bytes), np.uint8)
    head = count * GROUP_ROWS * 2
    for index in range(num_halves):
        half = packed[:, index * head : (index + 1) * head].view(np.uint16).reshape(groups, count, GROUP_ROWS)
        plain = np.ascontiguousarray(half.transpose(0, 2, 1)[..., None]).view(np.uint8)
        blocks[..., 2 * index : 2 * index + 2] = plain
    vectors = packed[:, num_halves * head :].view(np.uint32).reshape(groups, count, -1, GROUP_ROWS)
    vectors = np.ascontiguousarray(vectors.transpose(0, 3, 1, 2))  # [groups, 16, B, 4 or 8]
    words = vectors ^ _SIGN if format_name == "w8" else _nibbles_to_gguf(vectors)
    blocks[..., 2 * num_halves :] = words.view(np.uint8)
    return blocks.reshape(groups * GROUP_ROWS, -1)[:rows]


def dequantise(format_name: str, packed: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The values of a packed matrix, float32 `[rows, columns]`, equal to what GGUF's own reading gives."""
    layout = FORMATS[format_name]
    plain = unpack_blocks(format_name, packed, rows, columns)
    if layout.dtype is not None:
        return np.ascontiguousarray(plain).view(layout.dtype).astype(np.float32).reshape(rows, columns)
    blocks = plain.reshape(rows, -1, layout.block_bytes)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)  # [rows, B, 1]
    with np.errstate(all="ignore"):  # a damaged scale gives NaN, which `aquila verify` names
        if format_name == "w8":
            values = blocks[..., 2:].view(np.int8).astype(np.float32) * scales
        else:
            codes = blocks[..., -16:]
            values = np.concatenate([codes & np.uint8(15), codes >> np.uint8(4)], axis=-1).astype(np.float32)
            if format_name == "w4":
                values -= 8
                values *= scales
            else:
                values *= scales
                values += np.ascontiguousarray(blocks[..., 2:4]).view(np.float16).astype(np.float32)
    return np.ascontiguousarray(values.reshape(rows, -1)[:, :columns])


def _nibbles_from_gguf(words: np.ndarray) -> np.ndarray:
    """Four words of GGUF (columns j and 16 + j in a byte) -> four vectors (columns 8g + j and 8g + 4 + j)."""
    out = np.empty_like(words)
    for pair in (0, 1):
        first, second = words[..., 2 * pair], words[..., 2 * pair + 1]
        out[..., pair] = (first & _LOW) | ((second & _LOW) << _FOUR)
        out[..., pair + 2] = ((first >> _FOUR) & _LOW) | (second & _HIGH)
    return out


def _nibbles_to_gguf(vectors: np.ndarray) -> np.ndarray:
    out = np.empty_like(vectors)
    for pair in (0, 1):
        first, second = vectors[..., pair], vectors[..., pair + 2]
        out[..., 2 * pair] = (first & _LOW) | ((second & _LOW) << _FOUR)
        out[..., 2 * pair + 1] = ((first >> _FOUR) & _LOW) | (second & _HIGH)
    return out
