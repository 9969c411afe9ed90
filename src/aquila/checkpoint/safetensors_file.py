"""The safetensors container: lazy reading and streaming writing.

A file is an 8-byte little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, and the
data, which the tensors cover without gap or overlap. Source: https://github.com/huggingface/safetensors,
"Format".
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from aquila.checkpoint.folder import parse_json
from aquila.checkpoint.mapped_file import MappedFile
from aquila.checkpoint.tensors import LazyTensor, as_bytes
from aquila.errors import CheckpointError, IntegrityError

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own reader
_DATA_ALIGNMENT = 64  # the header is padded with spaces so that loaders can use the data in place
_DAMAGED = "the file is damaged, fetch it again"


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Lazy tensors of one file. Every header entry is checked before any is used.

    Raises:
        IntegrityError: the file is shorter than its header says.
        CheckpointError: the header is not one, or its offsets lie.
    """
    file = MappedFile(path)
    length = int.from_bytes(file.buffer[:8], "little")
    if file.size < 8 or length > file.size - 8:
        raise IntegrityError(
            f"{path}: the header should have {length} bytes but the whole file has {file.size}; "
            "it is truncated or not safetensors, fetch it again"
        )
    if length > _MAX_HEADER_BYTES:
        raise CheckpointError(f"{path}: the header claims {length} bytes; {_DAMAGED}")
    header = parse_json(file.buffer[8 : 8 + length], f"{path} (header)")
    header.pop("__metadata__", None)
    entries = [(*_parse_entry(entry, f"{path}: tensor {name!r}"), name) for name, entry in header.items()]
    entries.sort(key=lambda entry: entry[:2])
    start = 8 + length
    needed = start + max((end for _, end, *_ in entries), default=0)
    if needed > file.size:
        raise IntegrityError(f"{path}: {needed} bytes expected, {file.size} found: it is truncated; fetch it again")
    tensors, covered = {}, 0
    for begin, end, shape, dtype, name in entries:
        if begin != covered:
            raise CheckpointError(
                f"{path}: tensor {name!r} starts at data byte {begin} but the one before ends at {covered}; {_DAMAGED}"
            )
        covered = end
        tensors[name] = file.tensor(start + begin, shape, dtype)
    if start + covered != file.size:
        raise CheckpointError(f"{path}: {file.size - start - covered} bytes belong to no tensor; {_DAMAGED}")
    return {name: tensors[name] for name in header}


def _parse_entry(entry: Any, where: str) -> tuple[int, int, tuple[int, ...], np.dtype]:
    """Begin, end, shape and dtype of a header entry that agrees with itself."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise CheckpointError(f"{where}: the header entry lacks dtype, shape or data_offsets; {_DAMAGED}")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        raise CheckpointError(
            f"{where}: dtype {entry['dtype']!r} is not supported (known: {', '.join(_DTYPES)}); "
            "use the unquantised checkpoint"
        )
    dtype = _DTYPES[entry["dtype"]]
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_counts(shape, 1) or not _are_counts(offsets, 0) or len(offsets) != 2 or len(shape) > 8:
        raise CheckpointError(f"{where}: shape {shape!r:.60} or offsets {offsets!r:.60} cannot be; {_DAMAGED}")
    num_bytes = dtype.itemsize
    for size in shape:
        num_bytes *= size
    begin, end = offsets
    if end - begin != num_bytes:
        raise CheckpointError(
            f"{where}: offsets {begin}..{end} hold {end - begin} bytes, "
            f"shape {shape} of {entry['dtype']} takes {num_bytes}; {_DAMAGED}"
        )
    return begin, end, tuple(shape), dtype


def _are_counts(values: Any, least: int) -> bool:
    return isinstance(values, list) and all(type(value) is int and least <= value < 1 << 62 for value in values)


def write_safetensors(
    path: Path, tensors: Mapping[str, LazyTensor], dtype: np.dtype, progress: Callable[[int], None]
) -> str:
    """Streams tensors into one file and returns its sha256."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without it
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.num_elements * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _DATA_ALIGNMENT)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in (len(text).to_bytes(8, "little"), text):
            file.write(part)
            digest.update(part)
        for name, tensor in tensors.items():
            for block in tensor.chunks(dtype, name):
                view = as_bytes(block)
                file.write(view)
                digest.update(view)
                progress(view.nbytes)
    return digest.hexdigest()
