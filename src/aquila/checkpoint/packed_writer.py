"""Writes `.aqw` files (packed.py), tensor by tensor: models larger than memory are packed too."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, get_args

import numpy as np

import aquila
from aquila.checkpoint.checkpoint import Checkpoint
from aquila.checkpoint.convert import Progress, export_of, require_room, write_advice
from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.packed import MAGIC, PREFIX, SUFFIX, VERSION, aligned, tensor_bytes
from aquila.checkpoint.tensors import LazyTensor, as_bytes
from aquila.errors import AquilaError, CheckpointError, ConfigError
from aquila.files import atomic_write, cache_dir
from aquila.kernels.formats import FORMATS, GROUP_ROWS, VECTOR, pack_blocks, pack_rows
from aquila.kernels.rounding import Rounding
from aquila.tokenizer.embedded import dump_tokenizer

_HEADS = ("model.embed_tokens.weight", "lm_head.weight")
_PIECE_VALUES = 1 << 20  # weights that one thread works on at a time
_NO_DIGEST = "0" * 64  # keeps the place of one until the bytes are known
_MAX_THREADS = 4  # more would wait for the disk
_CHILD = "from aquila.checkpoint.packed_writer import pack_for_parent; pack_for_parent()"
_REFUSED = 3  # exit code of a child that said why


def quantise(
    source: Path,
    destination: Path,
    *,
    to: str,
    head: str | None = None,
    rounding: str = "search",
    progress: Progress = lambda done, total: None,
) -> Path:
    """Packs the checkpoint `source` into the file `destination`, which appears whole or not at all, and returns it.

    Matrices become `to`. A matrix that a GGUF file holds in the type that belongs to a format is permuted without
    loss. Norms and biases stay float32.

    Args:
        source: a folder or file that `open_checkpoint` reads.
        destination: the .aqw file to create.
        to: a format of `aquila.kernels.formats.FORMATS`.
        head: format of the embedding and the output matrix. None is `to`, but w8 where `to` has four bits and the
            source does not hold the matrix in just that form: four bits cost more accuracy there than anywhere.
        rounding: "search" or "absmax", see `quantise_rows`.
        progress: called with bytes written and bytes in all.

    Raises:
        ConfigError: an option is unknown, or the destination exists.
        CheckpointError: the source cannot be read, or there is no room.
    """
    destination = Path(destination)
    _check_options(destination, to, head, rounding)
    checkpoint = open_checkpoint(source)
    formats = plan_formats(checkpoint.tensors, to, head)
    total = sum(tensor_bytes(formats[name], tensor.shape) for name, tensor in checkpoint.tensors.items())
    require_room(destination, total)
    done = 0

    def count(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        progress(done, total)

    quantisation = {"to": to, "head": head, "rounding": rounding}
    try:
        with atomic_write(destination) as temporary, temporary.open("wb") as file:
            _write(file, checkpoint, formats, quantisation, count)
    except OSError as error:
        advice = write_advice(error)
        raise CheckpointError(f"{destination}: cannot be written: {error}; nothing was left behind, {advice}") from None
    return destination


def quantise_apart(source: Path, destination: Path, *, to: str) -> None:
    """As `quantise`, in a process of its own: what packing takes is not left behind in this one.

    An interrupt ends the other process as well, which leaves no file.

    Raises:
        CheckpointError: as `quantise` says; or the other process was killed.
    """
    command = [sys.executable, "-P", "-c", _CHILD, str(source.resolve()), str(destination), to]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in a terminal would reach both, and then again from here
    ) as child:
        try:
            _, message = child.communicate()
        except BaseException:
            child.send_signal(signal.SIGINT)
            child.wait()
            raise
    if child.returncode == _REFUSED:
        raise CheckpointError(message.decode(errors="replace").strip())
    if child.returncode < 0:
        raise CheckpointError(
            f"{destination}: packing was ended by signal {-child.returncode}; when memory is short, close other "
            "programs and try again"
        )
    assert child.returncode == 0, f"packing {source} failed:\n{message.decode(errors='replace')}"


def pack_for_parent() -> NoReturn:
    """The other process of `quantise_apart`."""
    source, destination, to = sys.argv[1:]
    try:
        quantise(Path(source), Path(destination), to=to)
    except AquilaError as error:
        print(error, file=sys.stderr)  # noqa: T201  to the parent
        sys.exit(_REFUSED)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def default_path(model: Path, to: str) -> Path:
    """Where `aquila quantise` puts a model (its path, or its name in the registry) when not told."""
    stem = model.resolve().name if model.is_dir() else model.name.removesuffix(".gguf").removesuffix(SUFFIX)
    return cache_dir() / "packed" / f"{stem}-{to}{SUFFIX}"


def plan_formats(tensors: Mapping[str, LazyTensor], to: str, head: str | None = None) -> dict[str, str]:
    """The format of each tensor. See `quantise` for the arguments."""
    formats = {}
    for name, tensor in tensors.items():
        chosen = to
        if len(tensor.shape) == 1:
            chosen = VECTOR
        elif name in _HEADS and head is not None:
            chosen = head
        elif name in _HEADS and to in ("w4", "w4m") and not is_permutation(tensor, to):
            chosen = "w8"
        formats[name] = chosen
    return formats


def is_permutation(tensor: LazyTensor, format_name: str) -> bool:
    """Whether a matrix is held in the very blocks of a format, so that packing loses nothing."""
    return tensor.quantised is not None and tensor.quantised.type.upper() == FORMATS[format_name].gguf_type


def _check_options(destination: Path, to: str, head: str | None, rounding: str) -> None:
    for option, value, known in (
        ("--to", to, FORMATS),
        ("--head", head, FORMATS),
        ("--rounding", rounding, get_args(Rounding)),
    ):
        if value is not None and value not in known:
            raise ConfigError(f"{option} is {value!r}; choose one of {', '.join(known)}")
    if destination.suffix != SUFFIX:
        raise ConfigError(f"{destination}: a packed model is one file; let its name end in {SUFFIX}")
    if destination.exists():
        raise ConfigError(f"{destination}: exists already; name another file with --out, or remove it first")


def _write(
    file: BinaryIO,
    checkpoint: Checkpoint,
    formats: Mapping[str, str],
    quantisation: dict[str, Any],
    progress: Callable[[int], None],
) -> None:
    export = export_of(checkpoint, checkpoint.dtype)
    content, settings = dump_tokenizer(export.tokenizer) if export.tokenizer is not None else (b"", None)
    header = _header(checkpoint, formats, len(content), settings)
    header["manifest"] = dict(export.record)
    header["provenance"] = {
        "created_by": f"aquila {aquila.__version__}",
        "source": _source(checkpoint),
        "quantisation": quantisation,
    }
    data_start = aligned(PREFIX.size + len(_encode(header)))
    file.write(bytes(data_start))  # the header's place: it needs the digests of what follows
    rounding = quantisation["rounding"]
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        for name, entry in header["tensors"].items():
            pieces = _pieces(threads, checkpoint.tensors[name], entry["format"], rounding, name)
            _write_section(file, data_start, entry, pieces, progress)
    if settings is not None:
        _write_section(file, data_start, header["tokenizer"], [np.frombuffer(content, np.uint8)], lambda count: None)
    encoded = _encode(header)
    assert aligned(PREFIX.size + len(encoded)) == data_start, "digests have a fixed length"
    file.seek(0)
    file.write(PREFIX.pack(MAGIC, VERSION, len(encoded), hashlib.sha256(encoded).digest()) + encoded)


def _header(
    checkpoint: Checkpoint, formats: Mapping[str, str], content_bytes: int, settings: dict[str, Any] | None
) -> dict[str, Any]:
    """The header with the places of all sections, one after the other, and no digest yet."""
    tensors: dict[str, dict[str, Any]] = {}
    offset = 0
    for name, tensor in checkpoint.tensors.items():
        nbytes = tensor_bytes(formats[name], tensor.shape)
        place = {"offset": offset, "nbytes": nbytes, "sha256": _NO_DIGEST}
        tensors[name] = {"format": formats[name], "shape": list(tensor.shape), **place}
        offset = aligned(offset + nbytes)
    tokenizer = None
    if settings is not None:
        tokenizer = {"offset": offset, "nbytes": content_bytes, "sha256": _NO_DIGEST, "settings": settings}
    return {"config": checkpoint.config.model_dump(mode="json"), "tensors": tensors, "tokenizer": tokenizer}


def _source(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the weights came from, with the digests that a pull or a manifest recorded."""
    recorded = checkpoint.manifest.get("files")
    entries = recorded.items() if isinstance(recorded, dict) else ()
    digests = {name: entry["sha256"] for name, entry in entries if isinstance(entry, dict) and "sha256" in entry}
    return {"path": str(checkpoint.path), "format": checkpoint.format, "sha256": digests}


def _encode(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()


def _write_section(
    file: BinaryIO,
    data_start: int,
    entry: dict[str, Any],
    pieces: Iterable[np.ndarray],
    progress: Callable[[int], None],
) -> None:
    """Writes a section where its entry says, fills it up with zeros and notes its digest."""
    assert file.tell() == data_start + entry["offset"], "sections follow each other"
    digest = hashlib.sha256()
    for piece in pieces:
        data = as_bytes(piece)
        file.write(data)
        digest.update(data)
        progress(len(data))
    assert file.tell() == data_start + entry["offset"] + entry["nbytes"], "pieces make up the section"
    file.write(bytes(aligned(file.tell()) - file.tell()))
    entry["sha256"] = digest.hexdigest()


def _pieces(
    threads: ThreadPoolExecutor, tensor: LazyTensor, format_name: str, rounding: Rounding, name: str
) -> Iterator[np.ndarray]:
    """The packed bytes of a tensor in order, some row groups at a time, worked out by all threads."""
    if format_name == VECTOR:
        yield from tensor.chunks(np.dtype(np.float32), name)
        return
    rows, columns = tensor.shape
    step = max(1, _PIECE_VALUES // (columns * GROUP_ROWS)) * GROUP_ROWS

    def pack(start: int) -> np.ndarray:
        stop = min(start + step, rows)
        if tensor.quantised is not None and is_permutation(tensor, format_name):
            return pack_blocks(format_name, tensor.quantised.rows.read(start, stop))
        values = tensor.read(start, stop).astype(np.float32, copy=False)
        return pack_rows(format_name, values, rounding=rounding, name=name)

    waiting: deque[Future[np.ndarray]] = deque()
    for start in range(0, rows, step):
        waiting.append(threads.submit(pack, start))
        if len(waiting) > _MAX_THREADS:  # as few in memory as keep the threads busy
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
