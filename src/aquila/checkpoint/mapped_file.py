"""A file of weights seen as lazy tensors: memory-mapped for use in place, or read a few rows at a time."""

import mmap
import sys
from pathlib import Path

import numpy as np

from aquila.checkpoint.tensors import LazyTensor
from aquila.errors import CheckpointError, IntegrityError

_MAP_NORESERVE = 0x4000  # Linux, all architectures we run on; named in `mmap` from Python 3.13


def _map(path: Path) -> mmap.mmap:
    """Maps a file copy-on-write: the arrays are writable, as torch asks, and the file never changes.

    Linux would count a writable private mapping against memory and refuse one larger than it, hence
    MAP_NORESERVE.
    """
    try:
        with path.open("rb") as file:
            if sys.platform == "linux":
                access = mmap.PROT_READ | mmap.PROT_WRITE
                return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | _MAP_NORESERVE, prot=access)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise CheckpointError(f"{path}: cannot be read: {error}; fetch the file again") from None


class MappedFile:
    """`buffer` is the whole file; `tensor` describes a part of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.buffer = _map(path)
        self.size = len(self.buffer)

    def tensor(self, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> LazyTensor:
        """A contiguous tensor that starts at byte `offset`; the caller has checked that it lies inside."""
        path = self.path
        row_shape = shape[1:]
        row_bytes = int(np.prod(row_shape, dtype=np.int64)) * dtype.itemsize

        def read(start: int, stop: int) -> np.ndarray:
            expected = (stop - start) * row_bytes
            first = offset + start * row_bytes
            found = np.fromfile(path, np.uint8, count=expected, offset=first)
            if found.size != expected:
                raise IntegrityError(
                    f"{path}: {found.size} of {expected} bytes could be read at byte {first}; "
                    "the file has been cut while in use, fetch it again"
                )
            return found.view(dtype).reshape(stop - start, *row_shape)

        count = int(np.prod(shape, dtype=np.int64))
        mapped = None
        if offset % dtype.itemsize == 0:  # torch cannot use numbers at odd addresses in place
            mapped = np.frombuffer(self.buffer, dtype, count, offset).reshape(shape)
        return LazyTensor(shape, dtype, read, mapped)
