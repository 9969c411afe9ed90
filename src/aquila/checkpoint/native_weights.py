"""From a checkpoint to the weights of the native kernels: each matrix in the format its file has, or in a given one.

Nothing is read twice and nothing is held beside the result but a few rows: GGUF blocks are permuted, plain rows are
interleaved, everything else passes through float32. The layouts are described in kernels/formats.py.
"""

from collections.abc import Iterator, Mapping
from types import ModuleType

import numpy as np

from aquila.checkpoint.tensors import LazyTensor, convert_dtype
from aquila.kernels.formats import FORMATS, GROUP_ROWS, num_groups, quantise_rows

# What a caller may ask for -> the format of every matrix
DTYPE_FORMATS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "w4": "w4", "w4m": "w4m", "w8": "w8", "f16": "f16"}
_BLOCK_FORMATS = {item.gguf_type.lower(): item.name for item in FORMATS.values() if item.block_bytes}
_READ_BYTES = 8 << 20  # of float32, at once
# Matrices that multiply the same input take it in one form: all in blocks (int8 inputs) or all plain
SHARED_INPUT = (
    ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
)


def native_format(tensor: LazyTensor) -> str:
    """The format nearest to what the file holds: its own where there is one, w8 for other quantised types."""
    if tensor.quantised is not None:
        return _BLOCK_FORMATS.get(tensor.quantised.type, "w8")
    return next((name for name, item in FORMATS.items() if item.dtype == tensor.dtype), "f32")


def choose_formats(tensors: Mapping[str, LazyTensor], dtype: str | None) -> dict[str, str]:
    """The format of every matrix: that of its file, or `dtype` (a key of DTYPE_FORMATS) for all.

    w4 keeps embedding and head in w8: they are few, and lose most by four bits.
    """
    chosen = {name: native_format(tensor) for name, tensor in tensors.items() if len(tensor.shape) == 2}
    if dtype is not None:
        wanted = DTYPE_FORMATS[dtype]
        for name in chosen:
            outside = not name.startswith("model.layers.")
            keep = outside and wanted in ("w4", "w4m") and chosen[name] != wanted
            chosen[name] = "w8" if keep else wanted
    layers = {name.split(".")[2] for name in chosen if name.startswith("model.layers.")}
    for layer in layers:
        for group in SHARED_INPUT:
            names = [f"model.layers.{layer}.{name}" for name in group]
            found = {chosen[name] for name in names}
            mixed = len({FORMATS[item].block_bytes == 0 for item in found}) == 2
            if mixed or (len(found) > 1 and "mlp" in group[0]):
                chosen |= dict.fromkeys(names, "f32" if mixed else "w8")
    return chosen


def packed_bytes(tensors: Mapping[str, LazyTensor], formats: Mapping[str, str]) -> int:
    """Bytes that the matrices take."""
    return sum(FORMATS[name_format].matrix_bytes(*tensors[name].shape) for name, name_format in formats.items())


def fill(native: ModuleType, name: str, tensor: LazyTensor, format_name: str, out: np.ndarray) -> None:
    """Packs `tensor` into `out`, uint8 of exactly its bytes."""
    layout = FORMATS[format_name]
    rows, columns = tensor.shape
    stride = layout.group_bytes(columns)
    for first, last in _pieces(rows, columns):
        room = out[first // GROUP_ROWS * stride : num_groups(last) * stride]
        if layout.block_bytes:
            native.pack_blocks(format_name, _blocks(name, tensor, format_name, first, last), room)
        else:
            assert layout.dtype is not None
            plain = tensor.read(first, last)
            if plain.dtype != layout.dtype:
                plain = convert_dtype(plain, layout.dtype, name)
            plain = np.ascontiguousarray(plain)
            native.interleave(plain.view(np.uint8).reshape(last - first, columns, -1), room)


def _pieces(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    step = max(1, _READ_BYTES // (4 * columns * GROUP_ROWS)) * GROUP_ROWS
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def _blocks(name: str, tensor: LazyTensor, format_name: str, first: int, last: int) -> np.ndarray:
    """Rows `first .. last - 1` in the GGUF type of a format: as the file has them, or rounded to it."""
    quantised = tensor.quantised
    if quantised is not None and _BLOCK_FORMATS.get(quantised.type) == format_name:
        return np.ascontiguousarray(quantised.rows.read(first, last))
    return quantise_rows(format_name, tensor.read(first, last), name=name)
