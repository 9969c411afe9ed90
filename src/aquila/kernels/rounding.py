"""Rounds rows to GGUF's blocks of 32: Q8_0, Q4_1 and Q4_0 bit for bit as its reference does, or Q4_0 more closely.

Blocks are worked on as columns, `[32, blocks]`, a piece that fits a core's cache at a time: numpy reduces over the
first axis with vector instructions, over 32 neighbours it does not. Source of the formulas: `quantize_row_*_ref` in
https://github.com/ggml-org/ggml/blob/master/src/ggml-quants.c and its twin in the `gguf` package.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

Rounding = Literal["absmax", "search"]
BLOCK = 32
_PIECE_BLOCKS = 2048  # 256 KiB of float32
# Scales that are tried, as what the largest value of a block becomes in steps; least squares then moves each to its
# optimum. 8 is Q4_0's own; positive: the other sign, which has one step less.
_STEPS = (-8.8, -8.4, -8.0, -7.6, -7.2, -6.8, -6.3, -5.8, 5.8, 6.3, 6.8, 7.2, 7.6)


def quantise_q8_0(values: np.ndarray) -> np.ndarray:
    """float32 `[rows, columns]` -> uint8 `[rows, B * 34]`."""

    def blocks(x: np.ndarray, out: np.ndarray, weights: np.ndarray | None) -> None:
        scale = np.abs(x).max(axis=0) / np.float32(127)
        scaled = x * _inverse(scale)
        size = np.abs(scaled)
        whole = np.floor(size)
        size -= whole
        size *= 2
        whole += np.floor(size)  # half away from zero
        codes = np.copysign(whole, scaled).astype(np.int8)
        out[:, :2] = _half_bytes(scale)
        out[:, 2:] = codes.T.view(np.uint8)

    return _each_piece(values, 34, blocks)


def quantise_q4_1(values: np.ndarray) -> np.ndarray:
    """float32 `[rows, columns]` -> uint8 `[rows, B * 20]`."""

    def blocks(x: np.ndarray, out: np.ndarray, weights: np.ndarray | None) -> None:
        low = x.min(axis=0)
        scale = (x.max(axis=0) - low) / np.float32(15)
        codes = ((x - low) * _inverse(scale) + np.float32(0.5)).astype(np.uint8).clip(0, 15)
        out[:, :2] = _half_bytes(scale)
        out[:, 2:4] = _half_bytes(low)
        out[:, 4:] = _nibbles(codes)

    return _each_piece(values, 20, blocks)


def quantise_q4_0(
    values: np.ndarray, *, rounding: Rounding = "absmax", importance: np.ndarray | None = None
) -> np.ndarray:
    """float32 `[rows, columns]` -> uint8 `[rows, B * 18]`. See `quantise_rows` for the arguments."""

    def blocks(x: np.ndarray, out: np.ndarray, weights: np.ndarray | None) -> None:
        peak = _signed_peak(x)
        scale = peak / np.float32(-8)
        codes = (x * _inverse(scale) + np.float32(8.5)).astype(np.uint8).clip(0, 15)
        half = scale.astype(np.float16)
        if rounding == "search":
            half, codes = _search(x, peak, half, codes, weights)
        out[:, :2] = half[:, None].view(np.uint8)
        out[:, 2:] = _nibbles(codes)

    return _each_piece(values, 18, blocks, importance)


def _each_piece(
    values: np.ndarray, block_bytes: int, blocks: Callable[..., None], importance: np.ndarray | None = None
) -> np.ndarray:
    """Runs `blocks(x [32, n], out [n, block_bytes], weights [32, n] or None)` over all blocks.

    An unfinished last block repeats its last column, which moves neither its extremes nor, weighing nothing, its
    search; the codes of such columns are 0.
    """
    rows, columns = values.shape
    count = -(-columns // BLOCK)
    pad = count * BLOCK - columns
    if importance is None and pad:
        importance = np.ones(columns, np.float32)
    out = np.empty((rows * count, block_bytes), np.uint8)
    step = max(1, _PIECE_BLOCKS // count)
    for first in range(0, rows, step):
        piece = values[first : first + step]
        if pad:
            piece = np.pad(piece, ((0, 0), (0, pad)), mode="edge")
        x = np.ascontiguousarray(piece.reshape(-1, BLOCK).T)
        weights = None
        if importance is not None:
            weights = np.tile(np.pad(importance, (0, pad)).reshape(-1, BLOCK).T, len(piece))
        blocks(x, out[first * count : first * count + x.shape[1]], weights)
    if pad:
        _clear_padding(out.reshape(rows, count, block_bytes)[:, -1], columns % BLOCK)
    return out.reshape(rows, count * block_bytes)


def _clear_padding(last: np.ndarray, used: int) -> None:
    """Zeroes the codes of columns from `used` on in blocks `[rows, block_bytes]`."""
    if last.shape[1] == 34:
        last[:, 2 + used :] = 0
        return
    codes = last[:, -16:]
    codes[:, min(used, 16) :] &= np.uint8(0xF0)
    codes[:, max(used - 16, 0) :] &= np.uint8(0x0F)


def _search(
    x: np.ndarray, peak: np.ndarray, half: np.ndarray, codes: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The scale of each block that leaves the least squared error, and its codes; never worse than what came in.

    For codes q the best scale is <x, q> / <q, q>, and it takes <x, q>^2 / <q, q> off the error: the scale with the
    most of that wins (the search of `make_qx_quants` in ggml-quants.c).
    """
    weighted = x if weights is None else x * weights
    best = np.zeros_like(peak)
    chosen = half.astype(np.float32)
    unit = _inverse(peak)
    for steps in _STEPS:
        q = np.rint(x * (unit * np.float32(steps)))
        np.clip(q, -8, 7, out=q)
        along = np.einsum("kn,kn->n", weighted, q)
        square = np.einsum("kn,kn->n", q, q) if weights is None else np.einsum("kn,kn,kn->n", weights, q, q)
        gain = along * along / np.maximum(square, np.float32(1e-30))
        better = gain > best
        best = np.where(better, gain, best)
        chosen = np.where(better, along / np.maximum(square, np.float32(1e-30)), chosen)
    new_half = chosen.astype(np.float16)
    new_codes = (np.clip(np.rint(x * _inverse(new_half.astype(np.float32))), -8, 7) + 8).astype(np.uint8)
    better = _error(x, new_half, new_codes, weights) < _error(x, half, codes, weights)
    return np.where(better, new_half, half), np.where(better, new_codes, codes)


def _error(x: np.ndarray, half: np.ndarray, codes: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    off = x - (codes.astype(np.float32) - 8) * half.astype(np.float32)
    off *= off
    return off.sum(axis=0) if weights is None else (off * weights).sum(axis=0)


def _signed_peak(x: np.ndarray) -> np.ndarray:
    """The value of largest size in each column with its sign; of two equal ones the first."""
    high, low = x.max(axis=0), x.min(axis=0)
    peak = np.where(high > -low, high, low)
    ties = np.flatnonzero(high == -low)
    if ties.size:
        tied = x[:, ties]
        peak[ties] = np.take_along_axis(tied, np.abs(tied).argmax(axis=0)[None], axis=0)[0]
    return peak


def _inverse(scale: np.ndarray) -> np.ndarray:
    """1 / scale, and 0 where that is no number: such a scale is 0 in fp16 anyway."""
    inverse = 1 / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _half_bytes(scale: np.ndarray) -> np.ndarray:
    return scale.astype(np.float16)[:, None].view(np.uint8)


def _nibbles(codes: np.ndarray) -> np.ndarray:
    """Codes `[32, n]` -> uint8 `[n, 16]`, columns j and 16 + j in byte j."""
    return (codes[:16] | (codes[16:] << np.uint8(4))).T
