"""Tensors that are read only when asked, a few rows at a time: no model has to fit in memory to be converted.

Every reader describes a checkpoint as `{name: LazyTensor}` under Hugging Face Llama names with half-split
rotary rows (the canonical form, see `names.py`); every writer takes that mapping and pulls rows through it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from aquila.errors import CheckpointError

CHUNK_BYTES = 16 << 20  # rows are moved in pieces of about this size, whatever the size of the model

DTYPES: dict[str, np.dtype] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}
TORCH_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # as config.json spells them


@dataclass(frozen=True, eq=False)
class QuantisedRows:
    """The rows of a tensor as the file packs them: blocks of `type` (GGUF's names: `q8_0`, `q4_1`, ...).

    `rows` is uint8 `[rows, bytes per row]`; an unfinished last block is filled up with zeros, which only packed files
    have. Rows can be reordered or taken apart without loss, columns not.
    """

    type: str
    rows: "LazyTensor"


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """A tensor known by shape and dtype; `read(start, stop)` gives rows of dimension 0 in `dtype`.

    `mapped` is the whole tensor as a memory-mapped array when the file holds it exactly in this form, so that
    a loader may use it in place; None when reading needs work (a permutation, a dequantisation, a
    concatenation). What `read` returns lies in memory of its own: pages of a mapping would count as the
    process's memory. `quantised` is there when the file holds the tensor quantised; `read` then dequantises
    it to float32.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]
    mapped: np.ndarray | None = None
    quantised: QuantisedRows | None = None

    @property
    def num_elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.num_elements * self.dtype.itemsize

    def chunks(self, dtype: np.dtype | None = None, name: str = "a tensor") -> Iterator[np.ndarray]:
        """All rows in order, about CHUNK_BYTES at a time, converted to `dtype`; `name` is for errors."""
        rows = self.shape[0] if self.shape else 1
        row_bytes = max(1, 4 * self.num_elements // max(rows, 1))
        step = max(1, CHUNK_BYTES // row_bytes)
        for start in range(0, rows, step):
            block = self.read(start, min(start + step, rows))
            yield block if dtype is None or block.dtype == dtype else convert_dtype(block, dtype, name)

    def numpy(self, dtype: np.dtype | None = None) -> np.ndarray:
        """The whole tensor in memory."""
        out = np.empty(self.shape, dtype or self.dtype)
        start = 0
        for block in self.chunks(out.dtype):
            out[start : start + len(block)] = block
            start += len(block)
        return out


def convert_dtype(block: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """`block` in `dtype`. A finite value that would become infinite (beyond 65504 in fp16) is an error."""
    with np.errstate(over="ignore", invalid="ignore"):  # reported below, with what to do
        out = block.astype(dtype)
    if dtype == np.float16 and np.isinf(out).any() and not np.isinf(block).any():
        largest = float(np.abs(block.astype(np.float32)).max())
        raise CheckpointError(f"{name}: the value {largest:.6g} does not fit fp16 (at most 65504); choose bf16 or fp32")
    return out


def as_bytes(block: np.ndarray) -> memoryview:
    """The bytes of an array in row order, for writing or hashing."""
    return np.ascontiguousarray(block).view(np.uint8).reshape(-1).data


def from_array(array: np.ndarray) -> LazyTensor:
    """A lazy view of an array (usually memory-mapped)."""
    return LazyTensor(tuple(array.shape), array.dtype, lambda start, stop: array[start:stop], mapped=array)


def take_rows(tensor: LazyTensor, rows: slice | np.ndarray) -> LazyTensor:
    """Some rows of `tensor`, in the given order: a slice for a part, an index array for a permutation."""
    quantised = tensor.quantised
    if quantised is not None:
        quantised = QuantisedRows(quantised.type, take_rows(quantised.rows, rows))
    if isinstance(rows, slice):
        first, last, _ = rows.indices(tensor.shape[0])
        mapped = None if tensor.mapped is None else tensor.mapped[first:last]
        shape = (last - first, *tensor.shape[1:])
        return LazyTensor(shape, tensor.dtype, lambda a, b: tensor.read(first + a, first + b), mapped, quantised)

    def read(start: int, stop: int) -> np.ndarray:
        wanted = rows[start:stop]
        low, high = (
            int(wanted.min()),
            int(wanted.max()) + 1,
        )  # a permutation inside heads stays in a narrow band
        return tensor.read(low, high)[wanted - low]

    return LazyTensor((len(rows), *tensor.shape[1:]), tensor.dtype, read, quantised=quantised)


def concatenate(parts: Sequence[LazyTensor], axis: int) -> LazyTensor:
    """Parts joined along `axis` (0 or 1), such as the slices of a tensor-parallel checkpoint."""
    if axis == 1:
        shape = (parts[0].shape[0], sum(part.shape[1] for part in parts), *parts[0].shape[2:])
        return LazyTensor(
            shape, parts[0].dtype, lambda a, b: np.concatenate([part.read(a, b) for part in parts], axis=1)
        )
    edges = np.cumsum([0, *(part.shape[0] for part in parts)])

    def read(start: int, stop: int) -> np.ndarray:
        blocks = []
        for part, low, high in zip(parts, edges[:-1], edges[1:], strict=True):
            a, b = max(start, int(low)), min(stop, int(high))
            if a < b:
                blocks.append(part.read(a - int(low), b - int(low)))
        return np.concatenate(blocks, axis=0)

    return LazyTensor((int(edges[-1]), *parts[0].shape[1:]), parts[0].dtype, read)
