"""How fast this machine takes weights in, measured: from memory through the kernels, and from a file through the ring.

What runs is what generates: the decoder, its team of threads and its stream (native/decoder.h, native/stream.h). A
token's time is nearly all reading, so a few of them tell the rate.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from aquila.checkpoint.names import expected_tensors
from aquila.errors import CheckpointError
from aquila.generate.memory_plan import MAX_JOB_BYTES, READERS
from aquila.generate.native_adapter import SLOTS
from aquila.generate.native_runner import NORMS, NativeRunner, make_decoder
from aquila.generate.runner import SequenceStep
from aquila.kernels.formats import FORMATS
from aquila.model.config import ModelConfig

SECONDS = 0.7  # of each measurement, at least two steps
_MEMORY_BYTES = 512 << 20  # beyond any cache, where the model has as much
MIN_FILE_BYTES = 32 << 20  # of a file to read; so much tells how much can be read in the time that there is
_DISK_SHAPE = {  # any does; 14 MB a layer in w8
    "vocab_size": 16,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 1,
    "num_attention_heads": 16,
    "max_position_embeddings": 16,
}
_FILLING = 0x3C  # an ordinary number in every format, never a subnormal one, which would be slow
_PAGE = 4096


@dataclass(frozen=True)
class Rates:
    """Bytes of weights a second.

    Attributes:
        kernels: instruction set that was used.
        threads: members of the team.
        memory: through the kernels, out of memory.
        disk: out of a file, through the ring and the kernels.
        direct: whether the file was read past the page cache.
    """

    kernels: str
    threads: int
    memory: float
    disk: float
    direct: bool


def measure_rates(
    native: ModuleType,
    config: ModelConfig,
    formats: Mapping[str, str],
    *,
    file: Path,
    free_bytes: int,
    job_bytes: int = MAX_JOB_BYTES,
    slots: int = 12,
) -> Rates:
    """Both rates for a model on this machine, in about two seconds.

    Args:
        native: the extension.
        config: of the model.
        formats: of its matrices; those of the first layer count.
        file: what is read, anything large on the disk that the weights will be read from.
        free_bytes: memory that may be used; a quarter of it is, at most half a GiB.
        job_bytes: of a piece that is read at once, as a plan has it.
        slots: of the ring.

    Raises:
        CheckpointError: the file cannot be read, or has less than MIN_FILE_BYTES.
    """
    kernels, threads, memory = _memory_rate(native, config, formats, free_bytes)
    disk, direct = _disk_rate(native, file, job_bytes, slots)
    return Rates(kernels, threads, memory, disk, direct)


@dataclass(frozen=True)
class _Layer:
    """Format, shape and place of each matrix of a layer, as a packed file lays them."""

    matrices: tuple[tuple[str, tuple[int, ...], int], ...]
    num_bytes: int

    @classmethod
    def of(cls, config: ModelConfig, formats: Mapping[str, str]) -> "_Layer":
        shapes = expected_tensors(config)
        found, end = [], 0
        for part in SLOTS:
            name = f"model.layers.0.{part}.weight"
            found.append((formats[name], shapes[name], end))
            end += -(-FORMATS[formats[name]].matrix_bytes(*shapes[name]) // _PAGE) * _PAGE
        return cls(tuple(found), end)


def _runner(
    native: ModuleType, config: ModelConfig, num_layers: int, layer: _Layer, room: np.ndarray | None, file_bytes: int
) -> NativeRunner:
    """So many layers of the model, next to no vocabulary; weights in `room`, or else spread over a file."""
    shape = config.model_copy(update={"num_hidden_layers": num_layers, "vocab_size": 16, "tie_word_embeddings": True})
    decoder = make_decoder(native, shape)
    table = np.full(FORMATS["f32"].matrix_bytes(16, config.hidden_size), _FILLING, np.uint8)
    for slot in range(2):
        decoder.set_matrix(-1, slot, "f32", 16, config.hidden_size, table)
    norm = np.full(config.hidden_size, 1e-3, np.float32)  # small inputs: nothing overflows half precision
    decoder.set_norm(-1, 0, norm)
    stride = (file_bytes - layer.num_bytes) // max(1, num_layers - 1) // _PAGE * _PAGE
    for index in range(num_layers):
        for slot, (format_name, (rows, columns), place) in enumerate(layer.matrices):
            if room is not None:
                data = room[index * layer.num_bytes + place :]
                decoder.set_matrix(index, slot, format_name, rows, columns, data)
            else:
                decoder.set_streamed(index, slot, format_name, rows, columns, index * stride + place)
        for which in range(len(NORMS)):
            decoder.set_norm(index, which, norm)
        if config.qkv_bias:
            for slot in range(3):
                decoder.set_bias(index, slot, np.zeros(layer.matrices[slot][1][0], np.float32))
    return NativeRunner(decoder, shape, max_context=16, num_pages=1, kv_type="f16")


def _memory_rate(
    native: ModuleType, config: ModelConfig, formats: Mapping[str, str], free_bytes: int
) -> tuple[str, int, float]:
    """Instruction set, threads, bytes a second, with as many layers of the model as there is room for."""
    layer = _Layer.of(config, formats)
    most = min(_MEMORY_BYTES, free_bytes // 4) // layer.num_bytes
    num_layers = max(1, min(config.num_hidden_layers, most))
    room = native.Buffer(num_layers * layer.num_bytes).array()
    room.fill(_FILLING)  # pages are there once they have been written
    runner = _runner(native, config, num_layers, layer, room, 0)
    seconds = _step_seconds(runner)
    return runner.decoder.kernels, runner.decoder.threads, num_layers * layer.num_bytes / float(np.median(seconds))


def _disk_rate(native: ModuleType, file: Path, job_bytes: int, slots: int) -> tuple[float, bool]:
    """Bytes a second, and whether they came past the page cache. Whatever the file holds is read as w8."""
    config = ModelConfig.model_validate(_DISK_SHAPE)
    layer = _Layer.of(config, dict.fromkeys(expected_tensors(config), "w8"))
    size = file.stat().st_size
    if size < MIN_FILE_BYTES:
        raise CheckpointError(f"{file}: its {size} bytes are too few to tell how fast it is read; name a larger file")

    def rate(num_bytes: float, seconds: float) -> tuple[float, bool]:
        num_layers = int(max(1, min(1024, min(num_bytes, size) // layer.num_bytes)))
        runner = _runner(native, config, num_layers, layer, None, size)
        started = time.perf_counter()  # reading begins with the ring
        try:
            runner.decoder.set_stream(str(file), job_bytes, slots, READERS)
        except RuntimeError as error:
            raise CheckpointError(f"{error}; check the disk, and the permissions of the file") from None
        while True:
            _step(runner)
            passed = time.perf_counter() - started
            if passed >= seconds:
                return runner.decoder.bytes_read / passed, runner.decoder.direct

    first, _ = rate(MIN_FILE_BYTES, 0.0)
    return rate(first * SECONDS, SECONDS)  # as much of the file as can be: the same bytes again may come from a cache


def _step_seconds(runner: NativeRunner) -> list[float]:
    _step(runner)
    started, found = time.perf_counter(), []
    while not found or time.perf_counter() < started + SECONDS:
        begun = time.perf_counter()
        _step(runner)
        found.append(time.perf_counter() - begun)
    return found


def _step(runner: NativeRunner) -> None:
    runner.step([SequenceStep([0], 0, [0], 1)])
