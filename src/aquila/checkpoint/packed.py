"""The `.aqw` file: weights as the native kernels use them, the config and the tokenizer, in one file.

    "AQUILAPK", u32 version, u64 header bytes, sha256 of the header (32 bytes), header (JSON)
    sections, each from a multiple of 4096 on and filled up with zeros: tensors in the order of names.py, the tokenizer

Header: {config, tensors: {name: {format, shape, offset, nbytes, sha256}}, tokenizer: {offset, nbytes, sha256, settings}
or null, manifest, provenance}. Offsets count from the first section, numbers are little-endian. Formats are those of
kernels/formats.py. Sections are aligned so that they can be read past the page cache, straight into place; the tensors
of a layer are neighbours, so that a layer is one read.
"""

import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aquila.checkpoint.checkpoint import Checkpoint, require_complete
from aquila.checkpoint.folder import parse_json
from aquila.checkpoint.tensors import LazyTensor, QuantisedRows
from aquila.errors import CheckpointError, IntegrityError
from aquila.files import CHUNK_BYTES
from aquila.kernels.formats import FORMATS, GROUP_ROWS, VECTOR, dequantise, num_groups, unpack_blocks
from aquila.model.config import ModelConfig, parse_config
from aquila.tokenizer.embedded import TokenizerSettings, parse_settings, restore_tokenizer
from aquila.tokenizer.tokenizer import Tokenizer

SUFFIX = ".aqw"
MAGIC = b"AQUILAPK"
VERSION = 1
ALIGNMENT = 4096
PREFIX = struct.Struct("<8sIQ32s")  # magic, version, header bytes, sha256 of the header
_MAX_HEADER_BYTES = 64 << 20
_REMAKE = "make the file again with `aquila quantise`"

_Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 60)]
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    offset: _Count
    nbytes: _Count
    sha256: _Digest


class _TensorEntry(_Section):
    format: str
    shape: Annotated[list[_Count], Field(min_length=1, max_length=2)]


class _TokenizerEntry(_Section):
    settings: dict[str, Any]


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    config: dict[str, Any]
    tensors: dict[str, _TensorEntry]
    tokenizer: _TokenizerEntry | None = None
    manifest: dict[str, Any] = {}
    provenance: dict[str, Any] = {}


@dataclass(frozen=True)
class PackedTensor:
    """Where a tensor lies: `nbytes` from byte `offset` of the file on, in a format of FORMATS or as a VECTOR."""

    format: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class PackedTokenizer:
    """Where the tokenizer.json lies, and the rest of what makes a tokenizer."""

    offset: int
    nbytes: int
    sha256: str
    settings: TokenizerSettings


@dataclass(frozen=True)
class PackedFile:
    """An `.aqw` file whose header has been read and checked.

    Attributes:
        tensors: by canonical name, in the order of a model's files.
        manifest: name, version, licence, chat_template of the model, as far as known.
        provenance: what the file was made from, how, and by which version.
        size: bytes of the whole file.
    """

    path: Path
    config: ModelConfig
    tensors: Mapping[str, PackedTensor]
    tokenizer: PackedTokenizer | None
    manifest: Mapping[str, Any]
    provenance: Mapping[str, Any]
    size: int

    def load_tokenizer(self) -> Tokenizer:
        """Raises `CheckpointError` when there is none or its bytes are not those that were written."""
        entry = self.tokenizer
        if entry is None:
            raise CheckpointError(f"{self.path}: holds no tokenizer; make it again from a model that has one")
        content = read_bytes(self.path, entry.offset, entry.nbytes)
        if hashlib.sha256(content.data).hexdigest() != entry.sha256:
            raise IntegrityError(f"{self.path}: the tokenizer's bytes have changed since they were written; {_REMAKE}")
        return restore_tokenizer(content.tobytes(), entry.settings, str(self.path))


def is_packed(path: Path) -> bool:
    """Whether a file begins like an `.aqw` file; False when it cannot be read, which its reader then reports."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_packed(path: Path) -> Checkpoint:
    """Opens an `.aqw` file as a checkpoint; see `packed_file` for what is checked."""
    file = packed_file(path)
    tensors = {name: _lazy(file.path, tensor) for name, tensor in file.tensors.items()}
    return Checkpoint(
        file.path,
        "packed",
        file.config,
        tensors,
        dict(file.manifest),
        file.tokenizer is not None,
        file.load_tokenizer,
    )


def packed_file(path: Path) -> PackedFile:
    """Reads the header of an `.aqw` file; everything it claims is checked against the file.

    The bytes of the tensors are not read: `check_sections` compares them with their digests.

    Raises:
        IntegrityError: the file is truncated or its header damaged.
        CheckpointError: it is another kind of file, of another version, or describes no model.
    """
    path = Path(path)
    content, data_start, size = _read_header(path)
    try:
        header = _Header.model_validate(parse_json(content, str(path)))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path}: header: {field}: {first['msg']}; {_REMAKE}") from None
    _check_layout(path, header, data_start, size)
    tensors = {
        name: PackedTensor(entry.format, tuple(entry.shape), data_start + entry.offset, entry.nbytes, entry.sha256)
        for name, entry in header.tensors.items()
    }
    tokenizer, entry = None, header.tokenizer
    if entry is not None:
        settings = parse_settings(entry.settings, str(path))
        tokenizer = PackedTokenizer(data_start + entry.offset, entry.nbytes, entry.sha256, settings)
    config = parse_config(header.config, str(path))
    order = require_complete({name: _lazy(path, tensor) for name, tensor in tensors.items()}, config, path)
    tensors = {name: tensors[name] for name in order}
    return PackedFile(path, config, tensors, tokenizer, header.manifest, header.provenance, size)


def check_sections(file: PackedFile) -> list[str]:
    """Reads every section and names those whose bytes are not the ones that were written."""
    findings = []
    sections: dict[str, PackedTensor | PackedTokenizer] = dict(file.tensors)
    if file.tokenizer is not None:
        sections["the tokenizer"] = file.tokenizer
    for name, section in sections.items():
        digest = hashlib.sha256()
        end = section.offset + section.nbytes
        for start in range(section.offset, end, CHUNK_BYTES):
            digest.update(read_bytes(file.path, start, min(CHUNK_BYTES, end - start)).data)
        if digest.hexdigest() != section.sha256:
            found = digest.hexdigest()
            findings.append(f"{file.path}: {name}: sha256 is {found}, recorded {section.sha256}; {_REMAKE}")
        if read_bytes(file.path, end, aligned(end) - end).any():
            findings.append(f"{file.path}: bytes behind {name} are not zero; {_REMAKE}")
    return findings


def tensor_bytes(format_name: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor in a format, without the filling of its section."""
    if format_name == VECTOR:
        return 4 * shape[0]
    return FORMATS[format_name].matrix_bytes(*shape)


def aligned(position: int) -> int:
    """The next place where a section may begin."""
    return -(-position // ALIGNMENT) * ALIGNMENT


def read_bytes(path: Path, offset: int, count: int) -> np.ndarray:
    """`count` bytes of a file, uint8."""
    found = np.fromfile(path, np.uint8, count=count, offset=offset) if count else np.empty(0, np.uint8)
    if found.size != count:
        raise IntegrityError(
            f"{path}: {found.size} of {count} bytes could be read at byte {offset}; "
            f"the file has been cut while in use, {_REMAKE}"
        )
    return found


def _read_header(path: Path) -> tuple[bytes, int, int]:
    """The header's JSON, where the sections begin, and the size of the file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(PREFIX.size)
            if prefix[: len(MAGIC)] != MAGIC:
                raise CheckpointError(
                    f"{path}: begins with {prefix[:8]!r}, not with {MAGIC.decode()}; this is another kind of file"
                )
            if len(prefix) < PREFIX.size:
                raise IntegrityError(f"{path}: ends after {size} bytes, inside its first line; {_REMAKE}")
            _, version, length, digest = PREFIX.unpack(prefix)
            if version != VERSION:
                raise CheckpointError(
                    f"{path}: its version is {version}, this program reads {VERSION}; update aquila, or {_REMAKE}"
                )
            data_start = aligned(PREFIX.size + length)
            if length > _MAX_HEADER_BYTES or data_start > size:
                raise IntegrityError(
                    f"{path}: the header is said to have {length} bytes but the file has {size}; it is truncated or "
                    f"damaged, {_REMAKE}"
                )
            content, filling = file.read(length), file.read(data_start - PREFIX.size - length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from None
    if hashlib.sha256(content).digest() != digest or any(filling):
        raise IntegrityError(f"{path}: the header's bytes have changed since they were written; {_REMAKE}")
    return content, data_start, size


def _check_layout(path: Path, header: _Header, data_start: int, size: int) -> None:
    """Every section has the bytes that its content needs, lies inside the file and shares no byte with another."""
    for name, entry in header.tensors.items():
        shape = tuple(entry.shape)
        if entry.format != VECTOR and entry.format not in FORMATS:
            known = ", ".join((*FORMATS, VECTOR))
            raise CheckpointError(f"{path}: {name}: format {entry.format!r:.40} is unknown (known: {known}); {_REMAKE}")
        if (entry.format == VECTOR) != (len(shape) == 1) or entry.nbytes != tensor_bytes(entry.format, shape):
            raise CheckpointError(
                f"{path}: {name}: {entry.nbytes} bytes of {entry.format} do not hold the shape {list(shape)}; {_REMAKE}"
            )
    sections: dict[str, _Section] = dict(header.tensors)
    if header.tokenizer is not None:
        sections["the tokenizer"] = header.tokenizer
    end, before = 0, "the header"
    for name, section in sorted(sections.items(), key=lambda item: item[1].offset):
        if section.offset % ALIGNMENT or section.offset < end:
            raise CheckpointError(
                f"{path}: {name} is said to begin at byte {data_start + section.offset}, which overlaps {before} "
                f"or is no multiple of {ALIGNMENT}; {_REMAKE}"
            )
        end, before = section.offset + section.nbytes, name
    if data_start + aligned(end) != size:
        raise IntegrityError(
            f"{path}: the file has {size} bytes where its header describes {data_start + aligned(end)}; it is "
            f"truncated or damaged, {_REMAKE}"
        )


def _lazy(path: Path, tensor: PackedTensor) -> LazyTensor:
    if tensor.format == VECTOR:
        return LazyTensor(tensor.shape, np.dtype(np.float32), partial(_read_vector, path, tensor.offset))
    layout = FORMATS[tensor.format]
    rows, columns = tensor.shape
    values = partial(_read_rows, path, tensor)
    if layout.dtype is not None:
        return LazyTensor(tensor.shape, layout.dtype, values)
    shape = (rows, layout.row_bytes(columns))
    blocks = LazyTensor(shape, np.dtype(np.uint8), partial(_read_rows, path, tensor, as_gguf=True))
    quantised = QuantisedRows(layout.gguf_type.lower(), blocks)
    return LazyTensor(tensor.shape, np.dtype(np.float32), values, quantised=quantised)


def _read_vector(path: Path, offset: int, start: int, stop: int) -> np.ndarray:
    return read_bytes(path, offset + 4 * start, 4 * (stop - start)).view(np.float32)


def _read_rows(path: Path, tensor: PackedTensor, start: int, stop: int, *, as_gguf: bool = False) -> np.ndarray:
    """Rows as values, or as GGUF's bytes; the whole groups that they lie in are read."""
    layout, columns = FORMATS[tensor.format], tensor.shape[1]
    first = start // GROUP_ROWS
    group_bytes = layout.group_bytes(columns)
    packed = read_bytes(path, tensor.offset + first * group_bytes, (num_groups(stop) - first) * group_bytes)
    count, skipped = stop - first * GROUP_ROWS, start - first * GROUP_ROWS
    if as_gguf:
        return unpack_blocks(tensor.format, packed, count, columns)[skipped:]
    if layout.dtype is not None:
        plain = np.ascontiguousarray(unpack_blocks(tensor.format, packed, count, columns)[skipped:])
        return plain.view(layout.dtype).reshape(count - skipped, columns)
    return dequantise(tensor.format, packed, count, columns)[skipped:]
