"""The GGUF container, read lazily: metadata, and rows of any type that the `gguf` package dequantises.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The reader of the `gguf` package makes a
numpy array of every string, which takes 3 s for a vocabulary of 49,000; here the same header takes 0.1 s.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from aquila.checkpoint.mapped_file import MappedFile
from aquila.checkpoint.tensors import LazyTensor, QuantisedRows
from aquila.errors import CheckpointError, IntegrityError

ALIGNMENT = 32
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PLAIN = {0: np.dtype(np.float32), 1: np.dtype(np.float16), 30: np.dtype(ml_dtypes.bfloat16)}
_MAX_TENSORS = 1 << 20
_DAMAGED = "the file is damaged, fetch it again"

DEQUANTISED_AT_ONCE = 1 << 17  # elements: as one row, or the package goes through 16 rows at a time, three times slower


@dataclass(frozen=True, eq=False)
class GgufFile:
    """`metadata` holds plain Python values (arrays as lists); tensors are named as in the file."""

    metadata: dict[str, Any]
    tensors: dict[str, LazyTensor]


def is_gguf(path: Path) -> bool:
    """Whether a file begins like GGUF; False when it cannot be read, which its reader then reports."""
    try:
        with path.open("rb") as file:
            return file.read(4) == _MAGIC
    except OSError:
        return False


def read_gguf_file(path: Path) -> GgufFile:
    """Reads the header of a GGUF file; everything it claims is checked against the file before it is used.

    Raises:
        IntegrityError: the file ends before what its header describes.
        CheckpointError: the header contradicts itself, or uses what this reader does not know.
    """
    file = MappedFile(path)
    if file.buffer[:4] != _MAGIC:
        raise CheckpointError(f"{path}: begins with {file.buffer[:4]!r}, not with GGUF; this is another kind of file")
    cursor = _Cursor(file)
    version = cursor.scalar("I")
    if version not in _VERSIONS:
        kind = (
            "big-endian" if int.from_bytes(version.to_bytes(4, "big"), "little") in _VERSIONS else f"version {version}"
        )
        raise CheckpointError(f"{path}: GGUF {kind} is not supported (little-endian 2 and 3 are); {_DAMAGED}")
    num_tensors, num_keys = cursor.scalar("Q"), cursor.scalar("Q")
    if num_tensors > _MAX_TENSORS or num_keys > file.size:
        raise CheckpointError(f"{path}: the header claims {num_tensors} tensors and {num_keys} keys; {_DAMAGED}")
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.string()
        if key in metadata:
            raise CheckpointError(f"{path}: the key {key!r:.80} is given twice; {_DAMAGED}")
        metadata[key] = cursor.value(cursor.scalar("I"))
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment % 8:
        raise CheckpointError(f"{path}: general.alignment {alignment!r:.40} is not a multiple of 8; {_DAMAGED}")
    entries = [_read_entry(cursor) for _ in range(num_tensors)]
    data_start = -(-cursor.position // alignment) * alignment
    _check_layout(entries, data_start, alignment, file)
    return GgufFile(metadata, {entry.name: _lazy(entry, data_start, file) for entry in entries})


class _Cursor:
    """Reads values one after the other; never beyond the end of the file."""

    def __init__(self, file: MappedFile) -> None:
        self.path = file.path
        self.buffer = file.buffer
        self.size = file.size
        self.position = 4  # behind the magic

    def _advance(self, num_bytes: int) -> int:
        start = self.position
        if num_bytes > self.size - start:
            raise IntegrityError(
                f"{self.path}: the header needs {num_bytes} bytes at byte {start} but the file has "
                f"{self.size}; "
                "it is truncated or damaged, fetch it again"
            )
        self.position = start + num_bytes
        return start

    def scalar(self, code: str) -> Any:
        layout = "<" + code
        return struct.unpack_from(layout, self.buffer, self._advance(struct.calcsize(layout)))[0]

    def string(self) -> str:
        length = self.scalar("Q")
        return self._text(self._advance(length), length)

    def _text(self, start: int, length: int) -> str:
        try:
            return str(self.buffer[start : start + length], "utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.path}: the text at byte {start} is not UTF-8; {_DAMAGED}") from None

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise CheckpointError(f"{self.path}: value type {kind} at byte {self.position} is unknown; {_DAMAGED}")
        return self.scalar(_SCALARS[kind])

    def _array(self) -> list[Any]:
        kind, count = self.scalar("I"), self.scalar("Q")
        if kind == _STRING:
            return self._strings(count)
        if kind not in _SCALARS:  # arrays of arrays exist on paper only
            raise CheckpointError(f"{self.path}: array type {kind} at byte {self.position} is unknown; {_DAMAGED}")
        dtype = np.dtype("<" + _SCALARS[kind])
        start = self._advance(count * dtype.itemsize)
        return np.frombuffer(self.buffer, dtype, count, start).tolist() if count else []

    def _strings(self, count: int) -> list[str]:
        """The hot loop: a vocabulary and its merges are some 100,000 strings."""
        if count > self.size // 8:
            self._advance(8 * count)
        texts = []
        length_at = struct.Struct("<Q").unpack_from
        buffer, position, last = self.buffer, self.position, self.size
        for _ in range(count):
            if position + 8 > last:
                break
            start = position + 8
            position = start + length_at(buffer, position)[0]
            if position > last:
                break
            texts.append(buffer[start:position])
        self.position = min(position, last)
        if len(texts) < count:
            raise IntegrityError(
                f"{self.path}: text {len(texts) + 1} of {count} would end at byte {position} of {last}; "
                "the file is truncated or damaged, fetch it again"
            )
        try:
            return [str(text, "utf-8") for text in texts]
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.path}: the text {error.object!r:.60} is not UTF-8; {_DAMAGED}") from None


@dataclass(frozen=True)
class _Entry:
    """A line of the tensor directory; `offset` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]  # outermost first, unlike in the file
    type: int
    offset: int
    num_bytes: int


def _read_entry(cursor: _Cursor) -> _Entry:
    name = cursor.string()
    where = f"{cursor.path}: tensor {name!r:.80}"
    num_dims = cursor.scalar("I")
    if not 1 <= num_dims <= 4:
        raise CheckpointError(f"{where}: has {num_dims} dimensions; {_DAMAGED}")
    shape = tuple(cursor.scalar("Q") for _ in range(num_dims))[::-1]
    kind, offset = cursor.scalar("I"), cursor.scalar("Q")
    num_elements = 1
    for size in shape:
        num_elements *= size
    if not 0 < num_elements < 1 << 60:
        raise CheckpointError(f"{where}: has shape {list(shape)}; {_DAMAGED}")
    per_block, block_bytes = (1, _PLAIN[kind].itemsize) if kind in _PLAIN else _block_layout(kind, where)
    if shape[-1] % per_block or (kind not in _PLAIN and num_dims != 2):
        raise CheckpointError(f"{where}: shape {list(shape)} cannot be stored in blocks of {per_block}; {_DAMAGED}")
    return _Entry(name, shape, kind, offset, num_elements // per_block * block_bytes)


def _check_layout(entries: list[_Entry], data_start: int, alignment: int, file: MappedFile) -> None:
    """Every tensor lies inside the file, aligned, and shares no byte with another."""
    if len({entry.name for entry in entries}) != len(entries):
        raise CheckpointError(f"{file.path}: a tensor name is given twice; {_DAMAGED}")
    previous_end, previous = 0, "the start of the data"
    for entry in sorted(entries, key=lambda entry: entry.offset):
        if entry.offset % alignment or entry.offset < previous_end:
            raise CheckpointError(
                f"{file.path}: tensor {entry.name!r:.80} is said to start at data byte {entry.offset}, "
                f"which overlaps {previous} or is not aligned to {alignment}; {_DAMAGED}"
            )
        previous_end, previous = entry.offset + entry.num_bytes, repr(entry.name)
        if data_start + previous_end > file.size:
            raise IntegrityError(
                f"{file.path}: tensor {entry.name!r:.80} ends at byte {data_start + previous_end} but the "
                "file has "
                f"{file.size}; it is truncated or damaged, fetch it again"
            )


def _lazy(entry: _Entry, data_start: int, file: MappedFile) -> LazyTensor:
    start = data_start + entry.offset
    if entry.type in _PLAIN:
        return file.tensor(start, entry.shape, _PLAIN[entry.type])
    rows = file.tensor(start, (entry.shape[0], entry.num_bytes // entry.shape[0]), np.dtype(np.uint8))
    name, dequantise = _dequantiser(entry.type)
    return LazyTensor(
        entry.shape,
        np.dtype(np.float32),
        lambda first, last: dequantise(rows.read(first, last)),
        quantised=QuantisedRows(name, rows),
    )


def _block_layout(kind: int, where: str) -> tuple[int, int]:
    """Elements and bytes of a block of a quantised type that can be dequantised."""
    from gguf import constants, quants  # noqa: PLC0415  0.1 s that a file of plain floats does not need

    try:
        layout = constants.GGML_QUANT_SIZES[constants.GGMLQuantizationType(kind)]
        quants.dequantize(np.zeros((1, layout[1]), np.uint8), constants.GGMLQuantizationType(kind))
    except (ValueError, KeyError, NotImplementedError):
        raise CheckpointError(
            f"{where}: type {kind} cannot be dequantised here; use a file of a usual type such as Q8_0 or Q4_K"
        ) from None
    return layout


def _dequantiser(kind: int) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    from gguf import constants, quants  # noqa: PLC0415  as above

    quantisation = constants.GGMLQuantizationType(kind)
    block_size, type_size = constants.GGML_QUANT_SIZES[quantisation]

    def dequantise(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), rows.shape[1] // type_size * block_size), np.float32)
        step = max(1, DEQUANTISED_AT_ONCE // max(1, out.shape[1]))
        with np.errstate(all="ignore"):  # a damaged scale gives NaN, which `aquila verify` names
            for start in range(0, len(rows), step):
                piece = rows[start : start + step]
                out[start : start + step] = quants.dequantize(piece.reshape(1, -1), quantisation).reshape(
                    len(piece), -1
                )
        return out

    return quantisation.name.lower(), dequantise
