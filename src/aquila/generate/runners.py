"""Which runner a model gets: the native one on a CPU, torch on an accelerator or where the kernels are not there."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aquila.checkpoint.adapter import Adapter
from aquila.checkpoint.native_weights import DTYPE_FORMATS, native_format
from aquila.checkpoint.open import Checkpoint, open_checkpoint
from aquila.checkpoint.packed_writer import default_path, quantise
from aquila.config import format_size, parse_size, suggest
from aquila.errors import ConfigError
from aquila.generate.runner import Runner
from aquila.kernels.native import native_module
from aquila.machine import may_have_accelerator, read_memory

log = logging.getLogger(__name__)

DTYPES = ("fp32", "fp16", "bf16")
QUANTISATIONS = ("w4", "w4m", "w8")


@dataclass(frozen=True)
class RunnerOptions:
    """Where and how a model runs. See `aquila.load` for the fields."""

    device: str | None = None
    dtype: str | None = None
    quantize: str | None = None
    memory_limit: int | str | None = None
    max_context: int | None = None
    kv_bytes: int = 1 << 30


def choose_runner(
    checkpoint: Checkpoint, name: str, options: RunnerOptions, adapters: Sequence[Adapter] = ()
) -> Runner:
    """Loads the weights where they will run, and leaves room for `adapters` within a memory limit.

    Raises:
        ConfigError: the options contradict each other or the machine.
    """
    _check(options)
    if not _runs_native(options.device):
        if options.quantize is not None or options.memory_limit is not None:
            option = "quantize" if options.quantize is not None else "memory_limit"
            raise ConfigError(
                f"{option}: needs the native CPU kernels (device cpu); on this device a model runs in fp32, bf16 or "
                "fp16 with all its weights in memory"
            )
        # torch takes a second and 240 MB: only a process that runs it pays
        from aquila.generate.torch_runner import make_runner  # noqa: PLC0415

        return make_runner(
            checkpoint,
            device=options.device,
            dtype=options.dtype,
            max_context=options.max_context,
            kv_bytes=options.kv_bytes,
        )
    from aquila.generate.native_runner import make_limited_runner, make_native_runner  # noqa: PLC0415

    native = native_module()
    assert native is not None, "_runs_native has asked"
    if options.memory_limit is None:
        return make_native_runner(
            native,
            checkpoint,
            dtype=options.quantize or options.dtype,
            max_context=options.max_context,
            kv_bytes=options.kv_bytes,
        )
    limit = parse_limit(options.memory_limit)
    packed = _packed(checkpoint, name, options.quantize or options.dtype)
    return make_limited_runner(native, packed, memory_limit=limit, max_context=options.max_context, adapters=adapters)


def parse_limit(memory_limit: int | str) -> int:
    """Bytes of a memory limit; `ConfigError` for one that no machine, or not this one, can give."""
    if isinstance(memory_limit, int) and memory_limit < 0:
        raise ConfigError(f"memory_limit: {memory_limit} is negative; give what the process may take, as 2GiB")
    limit = parse_size(memory_limit)
    if limit == 0:
        raise ConfigError("memory_limit: 0 leaves no memory at all; leave it out for no limit, or give one as 2GiB")
    memory = read_memory()
    if memory is not None and limit > memory.total_bytes:
        raise ConfigError(
            f"memory_limit: {format_size(limit)} is more than the {format_size(memory.total_bytes)} that this machine "
            "has; leave it out for no limit"
        )
    return limit


def _check(options: RunnerOptions) -> None:
    for field, known in (("dtype", DTYPES), ("quantize", QUANTISATIONS)):
        value = getattr(options, field)
        if value is not None and value not in known:
            raise ConfigError(f"{field}: {value!r} is not one of {', '.join(known)}{suggest(value, known)}")
    if options.dtype is not None and options.quantize is not None:
        raise ConfigError(f"dtype {options.dtype} and quantize {options.quantize} exclude each other; give one")


def _runs_native(device: str | None) -> bool:
    if device not in (None, "cpu") or native_module() is None:
        return False
    if device is None and may_have_accelerator():
        from aquila.generate.torch_runner import choose_device  # noqa: PLC0415  only torch knows whether it works

        return choose_device(None).type == "cpu"
    return True


def _packed(checkpoint: Checkpoint, name: str, wanted: str | None) -> Checkpoint:
    """The checkpoint as a packed file: itself, one that was packed before, or one that is packed now."""
    if checkpoint.format == "packed" and wanted is None:
        return checkpoint
    main = main_format(checkpoint)
    to = DTYPE_FORMATS[wanted] if wanted is not None else main
    if checkpoint.format == "packed" and to == main:
        return checkpoint
    plain = default_path(checkpoint.path if Path(name).expanduser().exists() else Path(name), to)
    target = plain.with_stem(f"{plain.stem}-{source_mark(checkpoint.path)}")
    if not target.exists():
        log.warning(
            "packing %s as %s into %s, once; under a memory limit weights are read from there", name, to, target
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        quantise(checkpoint.path, target, to=to)
    return open_checkpoint(target)


def source_mark(path: Path) -> str:
    """Twelve hex digits that differ between checkpoints of one name, and once a file of one is written again."""
    source = path.resolve()
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    facts = [f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files if file.is_file()]
    return hashlib.sha256("\n".join(facts).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def main_format(checkpoint: Checkpoint) -> str:
    """The format that most weights have, in which a model is packed when no other is asked for."""
    sizes: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        if len(tensor.shape) == 2:
            found = native_format(tensor)
            sizes[found] = sizes.get(found, 0) + tensor.num_elements
    return max(sizes, key=lambda item: sizes[item])
