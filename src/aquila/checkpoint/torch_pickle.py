"""`pytorch_model.bin`: the one place of the package that reads or writes through torch outside the model.

Reading unpickles with `weights_only=True` onto torch's meta device: names, shapes and file offsets come out,
no weight is read, and the weights are then mapped like those of any other format. Writing lets torch lay out
the archive without data and fills the data in place, so neither direction holds a model in memory.
"""

import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from aquila.checkpoint.mapped_file import MappedFile
from aquila.checkpoint.tensors import DTYPES, TORCH_NAMES, LazyTensor, as_bytes, from_array
from aquila.errors import CheckpointError, IntegrityError

_ZIP_MAGIC = b"PK\x03\x04"
_DTYPES = {  # str(torch dtype) -> numpy's
    "torch.float64": np.dtype(np.float64),
    "torch.float32": np.dtype(np.float32),
    "torch.float16": np.dtype(np.float16),
    "torch.bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_MALFORMED = (  # what damaged files make torch raise, found by flipping bytes
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OSError,
    struct.error,
)


def read_torch_file(path: Path) -> dict[str, LazyTensor]:
    """Lazy tensors of a state dict, flat or under `module` or `state_dict`.

    Raises:
        CheckpointError: the pickle asks for code, or holds something other than weights.
        IntegrityError: the file is truncated or damaged.
    """
    file = MappedFile(path)
    is_zip = file.buffer[:4] == _ZIP_MAGIC
    state = _unpickle(path, meta=is_zip)
    for wrapper in ("module", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path}: holds a {type(state).__name__} where a state dict of tensors is expected")
    return {str(name): _lazy(value, file, f"{path}: {name!r}") for name, value in state.items()}


def _unpickle(path: Path, *, meta: bool) -> Any:
    import torch  # noqa: PLC0415  readers of the other formats must not pay for torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on pickle protocols and storage classes: nothing to act on
            return torch.load(path, map_location="meta" if meta else "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise IntegrityError(
                f"{path}: {path.stat().st_size} bytes that are not a readable pickle; fetch the file again"
            ) from None
        raise CheckpointError(
            f"{path}: the pickle asks for {wanted[1]}, which is code and not weights; nothing was run. "
            "Get this checkpoint as safetensors, or delete it if you do not know where it comes from"
        ) from None
    except _MALFORMED as error:
        reason = str(error).split(". ")[0].split("\n")[0]
        raise IntegrityError(
            f"{path}: truncated or damaged at {path.stat().st_size} bytes ({reason:.120}); fetch the file again"
        ) from None


def _lazy(value: Any, file: MappedFile, where: str) -> LazyTensor:
    import torch  # noqa: PLC0415  as above

    if not isinstance(value, torch.Tensor):
        raise CheckpointError(f"{where} is a {type(value).__name__}, not a tensor; this is not a file of weights only")
    dtype = _DTYPES.get(str(value.dtype))
    if dtype is None:
        raise CheckpointError(f"{where}: dtype {value.dtype} is not supported; known: {', '.join(_DTYPES)}")
    value = value.detach()
    shape = tuple(value.shape)
    if value.device.type != "meta":  # the format of torch before 1.6 cannot be mapped: it is in memory already
        bits = value.contiguous().view(torch.int16) if value.dtype == torch.bfloat16 else value.contiguous()
        return from_array(bits.numpy().view(dtype))
    storage = value.untyped_storage()  # `_checkpoint_offset` is from torch's notes on serialization
    offset = storage._checkpoint_offset + value.storage_offset() * dtype.itemsize
    reach = sum((size - 1) * stride for size, stride in zip(shape, value.stride(), strict=True)) + 1
    if not all(shape) or min(offset, *value.stride(), 0) < 0 or offset + reach * dtype.itemsize > file.size:
        raise IntegrityError(
            f"{where}: its last byte would be {offset + reach * dtype.itemsize} of {file.size} in the file; "
            "the file is damaged, fetch it again"
        )
    if value.is_contiguous():
        return file.tensor(offset, shape, dtype)
    strides = tuple(stride * dtype.itemsize for stride in value.stride())
    view = np.ndarray(shape, dtype, file.buffer, offset, strides)  # transposed, say: gathered when read
    return LazyTensor(shape, dtype, lambda start, stop: np.ascontiguousarray(view[start:stop]))


def write_torch_file(
    path: Path, tensors: Mapping[str, LazyTensor], dtype: str, progress: Callable[[int], None]
) -> None:
    """Streams a flat state dict into a file that `torch.load` and zip tools accept."""
    import torch  # noqa: PLC0415  as above
    from torch.serialization import skip_data  # noqa: PLC0415

    kind = getattr(torch, TORCH_NAMES[dtype])
    # Reserved memory that is never touched, and so never becomes real.
    skeleton = {name: torch.empty(tensor.shape, dtype=kind) for name, tensor in tensors.items()}
    with skip_data():
        torch.save(skeleton, path)
    del skeleton
    with path.open("r+b") as file:
        with zipfile.ZipFile(file) as archive:
            records = {info.filename.partition("/data/")[2]: info for info in archive.infolist()}
            directory = archive.start_dir
        checksums = {}
        for key, (name, tensor) in enumerate(tensors.items()):  # torch numbers storages as it meets them
            info = records[str(key)]
            blocks = _counted(tensor.chunks(DTYPES[dtype], name), progress)
            checksums[info.filename] = _fill_record(file, info.header_offset, blocks)
        _correct_directory(file, directory, checksums)


def _counted(blocks: Iterator[np.ndarray], progress: Callable[[int], None]) -> Iterator[memoryview]:
    for block in blocks:
        yield as_bytes(block)
        progress(block.nbytes)


def _fill_record(file: BinaryIO, header_offset: int, blocks: Iterator[memoryview]) -> int:
    """Writes the data of one stored zip record behind its local header, and the checksum behind the data."""
    file.seek(header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    file.seek(header_offset + 30 + name_length + extra_length)
    checksum = 0
    for block in blocks:
        file.write(block)
        checksum = zlib.crc32(block, checksum)
    position = file.tell()
    assert file.read(4) == b"PK\x07\x08"  # torch writes data descriptors
    file.seek(position + 4)
    file.write(struct.pack("<I", checksum))
    return checksum


def _correct_directory(file: BinaryIO, start: int, checksums: Mapping[str, int]) -> None:
    """Puts the checksums into the central directory, where zip tools look; torch does not check them."""
    file.seek(start)
    directory = bytearray(file.read())
    position = 0
    while directory[position : position + 4] == b"PK\x01\x02":
        lengths = struct.unpack_from("<HHH", directory, position + 28)  # name, extra, comment
        name = directory[position + 46 : position + 46 + lengths[0]].decode()
        if name in checksums:
            struct.pack_into("<I", directory, position + 16, checksums[name])
        position += 46 + sum(lengths)
    file.seek(start)
    file.write(directory)
