"""Converts a checkpoint between formats, tensor by tensor: models larger than memory convert too."""

import dataclasses
import errno
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aquila.checkpoint.checkpoint import Checkpoint, Export
from aquila.checkpoint.flagai import write_flagai
from aquila.checkpoint.folder import new_folder
from aquila.checkpoint.gguf_writer import QUANTISATIONS, plan_gguf, write_gguf
from aquila.checkpoint.hf import write_hf
from aquila.checkpoint.native import write_native
from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.tensors import DTYPES
from aquila.config import format_size
from aquila.errors import CheckpointError, ConfigError
from aquila.files import atomic_write
from aquila.tokenizer.templates import named_template

log = logging.getLogger(__name__)

_FOLDER_WRITERS: dict[str, Callable[[Export, Path], Any]] = {
    "native": write_native,
    "hf": write_hf,
    "flagai": write_flagai,
}
_KEPT = (
    "name",
    "version",
    "licence",
    "licence_url",
    "preset",
    "chat_template",
    "fill_in_the_middle",
    "source",
)  # of the source's manifest
_HEADROOM_BYTES = 32 << 20  # tokenizer and headers
_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.ENOTEMPTY: "something else has written there meanwhile; name another destination",
}
Progress = Callable[[int, int], None]  # bytes done, bytes in all


def convert(
    source: Path | Checkpoint,
    destination: Path,
    *,
    to: str,
    dtype: str | None = None,
    quantize: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Writes a checkpoint to `destination`, which appears whole or not at all, and returns it.

    Args:
        source: a folder or file that `open_checkpoint` reads, or one that is open, perhaps changed on the way.
        destination: a folder to create, or the .gguf file to create.
        to: `native`, `hf`, `flagai` or `gguf`.
        dtype: `fp32`, `fp16` or `bf16`; None is what most weights of the source have, fp16 if quantised.
        quantize: `q8_0` or `q4_0`, for GGUF only.
        progress: called with bytes written and bytes in all.

    Raises:
        ConfigError: the options contradict each other, or the destination exists.
        CheckpointError: the source cannot be read, or there is no room.
    """
    destination = Path(destination)
    check_options(destination, to, dtype, quantize)
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    export = export_of(checkpoint, dtype or checkpoint.dtype)
    plan = plan_gguf(export, quantize) if to == "gguf" else {}
    itemsize = DTYPES[export.dtype].itemsize
    total = sum(item.num_bytes for item in plan.values()) or sum(
        tensor.num_elements * itemsize for tensor in export.tensors.values()
    )
    require_room(destination, total)
    done = 0

    def count(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        progress(done, max(done, total))

    export = dataclasses.replace(export, progress=count)
    try:
        _write(export, destination, to, plan)
    except OSError as error:
        advice = write_advice(error)
        raise CheckpointError(f"{destination}: cannot be written: {error}; nothing was left behind, {advice}") from None
    return destination


def write_advice(error: OSError) -> str:
    """What a user can do about a destination that cannot be written."""
    return _ADVICE.get(error.errno or 0, "check the path and its permissions")


def _write(export: Export, destination: Path, to: str, plan: Any) -> None:
    if to == "gguf":
        with atomic_write(destination) as temporary:
            write_gguf(export, temporary, plan)
    else:
        with new_folder(destination) as temporary:
            _FOLDER_WRITERS[to](export, temporary)


def check_options(destination: Path, to: str, dtype: str | None, quantize: str | None) -> None:
    """`ConfigError` when the options contradict each other, or the destination exists."""
    for option, value, known in (
        ("--to", to, (*_FOLDER_WRITERS, "gguf")),
        ("--dtype", dtype, DTYPES),
        ("--quantize", quantize, QUANTISATIONS),
    ):
        if value is not None and value not in known:
            raise ConfigError(f"{option} is {value!r}; choose one of {', '.join(known)}")
    if quantize is not None and to != "gguf":
        raise ConfigError(f"--quantize {quantize} goes with --to gguf only; {to} stores plain numbers, see --dtype")
    if quantize is not None and dtype is not None:
        raise ConfigError(f"--quantize {quantize} and --dtype {dtype} exclude each other; give one")
    if (to == "gguf") != (destination.suffix == ".gguf"):
        kind = "one file: let the destination end in .gguf" if to == "gguf" else "a folder: drop the .gguf ending"
        raise ConfigError(f"{destination}: a checkpoint in the format {to} is {kind}")
    if destination.is_file() or (destination.is_dir() and (to == "gguf" or any(destination.iterdir()))):
        raise ConfigError(f"{destination}: exists already; name another destination or remove it first")


def export_of(checkpoint: Checkpoint, dtype: str) -> Export:
    """The checkpoint on its way to another file, with the tokenizer and what its manifest knows of the model."""
    tokenizer = checkpoint.load_tokenizer() if checkpoint.has_tokenizer else None
    if tokenizer is None:
        log.warning("%s holds no tokenizer: the result can be loaded but not prompted with text", checkpoint.path)
    record = {key: checkpoint.manifest[key] for key in _KEPT if checkpoint.manifest.get(key) is not None}
    if tokenizer is not None and tokenizer.chat_template is None and record.get("chat_template"):
        tokenizer.chat_template = named_template(record["chat_template"]).jinja()
    record.setdefault("name", checkpoint.path.resolve().stem)
    record["converted_from"] = checkpoint.format
    return Export(checkpoint.config, checkpoint.tensors, dtype, tokenizer, record)


def require_room(destination: Path, num_bytes: int) -> None:
    """`CheckpointError` when the disk of `destination` has no room for so many bytes."""
    folder = next(parent for parent in destination.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < num_bytes + _HEADROOM_BYTES:
        raise CheckpointError(
            f"{destination}: needs {format_size(num_bytes + _HEADROOM_BYTES)} but {folder} has {format_size(free)} "
            "free; free some space or choose another disk"
        )
