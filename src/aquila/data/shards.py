"""Token shards: documents of token ids in the two files that Megatron-LM trains on, byte for byte.

    PREFIX.bin   the ids, one after another, little-endian
    PREFIX.idx   magic, u64 version 1, u8 dtype code, u64 sequences N, u64 boundaries D,
                 i32[N] lengths, i64[N] byte offsets, i64[D] first sequence of each document and N at the end
    PREFIX.json  ours: which tokenizer made the ids (`sidecar.py`); other programs do not look at it

Ids are uint16 where the vocabulary is below 65,500 and int32 otherwise. A document of ours is one sequence; files of
others may have several to a document. Source: Megatron-LM, `indexed_dataset.py`.
"""

import struct
from array import array
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from aquila.data.sidecar import Sidecar, sidecar_path
from aquila.errors import DataError
from aquila.files import Hashes, atomic_write

_MAGIC = b"MMIDIDX\x00\x00"
_OLD_MAGIC = b"TNTIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {code: np.dtype(name) for code, name in {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}.items()}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_UINT16_VOCAB = 65_500  # Megatron's rule
_CHECK_ROWS = 1 << 20


def token_dtype(vocab_size: int) -> np.dtype:
    """The type that Megatron stores ids of such a vocabulary in."""
    return np.dtype("<u2") if vocab_size < _MAX_UINT16_VOCAB else np.dtype("<i4")


def shard_prefix(path: Path) -> Path:
    """What .bin and .idx stand behind, given either file or the prefix itself."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".bin", ".idx") else path


def bin_path(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.bin")


def idx_path(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.idx")


class Shard:
    """A shard on disk, mapped into memory and checked: what its index promises is there.

    Attributes:
        tokens: all ids, `[num_tokens]`, as stored.
        lengths: tokens of each sequence, `[sequences]`.
        documents: first sequence of each document and, last, the number of sequences, `[documents + 1]`.
        sidecar: what made it, None for a shard of another program.

    Raises:
        DataError: a file is absent, is none of this format, or ends early.
    """

    def __init__(self, path: Path) -> None:
        self.prefix = shard_prefix(path)
        self.dtype, self.lengths, offsets, self.documents = _read_index(idx_path(self.prefix))
        file = bin_path(self.prefix)
        if not file.is_file():
            raise DataError(f"{file}: no such file; a shard is {file.name} and {idx_path(self.prefix).name}")
        size = file.stat().st_size
        promised = _check_offsets(idx_path(self.prefix), self.lengths, offsets, self.dtype.itemsize)
        if size != promised:
            what = "ends early" if size < promised else "is longer than that"
            raise DataError(f"{file}: {size} bytes, but its .idx promises {promised}: it {what}; make the shard again")
        self.tokens = _map(file, self.dtype, 0, size // self.dtype.itemsize)
        self.sidecar = Sidecar.read(self.prefix)
        if self.sidecar is not None:
            self.sidecar.check_counts(self.prefix, self.num_documents, self.num_tokens)

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        return len(self.documents) - 1

    @cached_property
    def starts(self) -> np.ndarray:
        """Place of each document's first token among `tokens` and, last, their number, int64 `[documents + 1]`."""
        bounds = np.zeros(len(self.lengths) + 1, dtype=np.int64)
        np.cumsum(self.lengths, out=bounds[1:])
        return bounds[self.documents]

    def document(self, index: int) -> np.ndarray:
        """Ids of one document, a view of the file."""
        return self.tokens[self.starts[index] : self.starts[index + 1]]


class ShardWriter:
    """Takes documents one by one; made by `write_shard`."""

    def __init__(self, file: BinaryIO, dtype: np.dtype) -> None:
        self._file = file
        self._hashes = Hashes(["sha256"])
        self._limits = np.iinfo(dtype)
        self.dtype = dtype
        self.lengths = array("i")
        self.documents = array("q", [0])
        self.num_tokens = 0
        self.sidecar: Sidecar | None = None

    def add(self, token_ids: Sequence[int] | np.ndarray) -> None:
        """One document.

        Raises:
            DataError: an id that the shard's type cannot hold.
        """
        ids = np.asarray(token_ids, dtype=np.int64)
        if len(ids) and not (self._limits.min <= ids.min() and ids.max() <= self._limits.max):
            wrong = ids.min() if ids.min() < self._limits.min else ids.max()
            raise DataError(f"document {len(self.documents) - 1}: token id {wrong} does not fit into {self.dtype}")
        self._write(ids.astype(self.dtype).tobytes())
        self.lengths.append(len(ids))
        self.documents.append(len(self.lengths))
        self.num_tokens += len(ids)

    def add_shard(self, shard: Shard) -> None:
        """All documents of another shard with the same type of ids."""
        assert shard.dtype == self.dtype, "shards of one tokenizer have one type"
        for start in range(0, shard.num_tokens, _CHECK_ROWS):
            self._write(shard.tokens[start : start + _CHECK_ROWS].tobytes())
        first = len(self.lengths)
        self.lengths.frombytes(shard.lengths.astype(np.intc).tobytes())
        self.documents.frombytes((shard.documents[1:] + first).astype(np.int64).tobytes())
        self.num_tokens += shard.num_tokens

    def sha256(self) -> str:
        """Of the .bin so far."""
        return self._hashes.hexdigests()["sha256"]

    def index(self) -> bytes:
        """The .idx file."""
        lengths = np.array(self.lengths, dtype="<i4")
        offsets = np.zeros(len(lengths), dtype="<i8")
        np.cumsum(lengths[:-1], dtype=np.int64, out=offsets[1:])
        offsets *= self.dtype.itemsize
        documents = np.array(self.documents, dtype="<i8")
        header = _HEADER.pack(_MAGIC, 1, _CODES[self.dtype], len(lengths), len(documents))
        return header + lengths.tobytes() + offsets.tobytes() + documents.tobytes()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hashes.update(data)


@contextmanager
def write_shard(prefix: Path, dtype: np.dtype) -> Generator[ShardWriter]:
    """Yields a writer whose documents become the shard `prefix` if the block succeeds; else nothing changes.

    The index appears last: while it is absent there is no shard. Set `sidecar` of the writer to say what made it.
    """
    prefix = shard_prefix(prefix)
    with atomic_write(idx_path(prefix)) as temporary_idx, atomic_write(bin_path(prefix)) as temporary_bin:
        with temporary_bin.open("wb") as file:
            writer = ShardWriter(file, dtype)
            yield writer
        temporary_idx.write_bytes(writer.index())
        idx_path(prefix).unlink(missing_ok=True)  # an older index must not be seen beside the new ids
        sidecar_path(prefix).unlink(missing_ok=True)
        if writer.sidecar is not None:
            writer.sidecar.write(prefix)


def _read_index(path: Path) -> tuple[np.dtype, np.ndarray, np.ndarray, np.ndarray]:
    """Type of the ids, lengths, byte offsets, documents."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the prefix of a shard, which `aquila data pack` writes")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    if head.startswith(_OLD_MAGIC):
        raise DataError(f"{path}: Megatron's older format (TNTIDX); pack the text again with `aquila data pack`")
    if not head.startswith(_MAGIC):
        raise DataError(f"{path}: not the index of a token shard: it does not begin with MMIDIDX")
    if len(head) < _HEADER.size:
        raise DataError(f"{path}: {size} bytes are less than a header; the file ends early, make the shard again")
    _, version, code, num_sequences, num_boundaries = _HEADER.unpack(head)
    if version != 1:
        raise DataError(f"{path}: version {version} is unknown; only version 1 is")
    if code not in _DTYPES:
        raise DataError(f"{path}: dtype code {code} is no whole number; token ids are codes {sorted(_DTYPES)}")
    promised = _HEADER.size + 12 * num_sequences + 8 * num_boundaries
    if size not in (promised, promised + num_sequences):  # newer Megatron may add an int8 mode for each sequence
        raise DataError(
            f"{path}: {size} bytes, but {num_sequences} sequences and {num_boundaries} boundaries take {promised}; "
            "the file is damaged, make the shard again"
        )
    lengths = _map(path, np.dtype("<i4"), _HEADER.size, num_sequences)
    offsets = _map(path, np.dtype("<i8"), _HEADER.size + 4 * num_sequences, num_sequences)
    documents = _map(path, np.dtype("<i8"), _HEADER.size + 12 * num_sequences, num_boundaries)
    if not num_boundaries or documents[0] != 0 or documents[-1] != num_sequences or np.any(np.diff(documents) < 0):
        raise DataError(f"{path}: its documents do not run from 0 to {num_sequences}; the file is damaged")
    return _DTYPES[code], lengths, offsets, documents


def _check_offsets(path: Path, lengths: np.ndarray, offsets: np.ndarray, itemsize: int) -> int:
    """Bytes of the .bin that the index promises; every sequence must begin where the one before it ends."""
    end = 0
    for start in range(0, len(lengths), _CHECK_ROWS):
        sizes = lengths[start : start + _CHECK_ROWS].astype(np.int64) * itemsize
        expected = end + np.concatenate([[0], np.cumsum(sizes)])
        wrong = np.flatnonzero((offsets[start : start + _CHECK_ROWS] != expected[:-1]) | (sizes < 0))
        if len(wrong):
            raise DataError(
                f"{path}: sequence {start + wrong[0]} does not begin where the one before it ends; "
                "the file is damaged, make the shard again"
            )
        end = int(expected[-1])
    return end


def _map(path: Path, dtype: np.dtype, offset: int, count: int) -> np.ndarray:
    if not count:  # an empty file cannot be mapped
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,))
