"""Which runner a model gets: the native one on a CPU, torch on an accelerator or where the kernels are not there."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from aquila.checkpoint.adapter import Adapter
from aquila.checkpoint.open import Checkpoint
from aquila.config import format_size, parse_size, suggest
from aquila.errors import ConfigError
from aquila.generate.memory_plan import KV_TYPES
from aquila.generate.packed_copy import open_copy, packed_copy
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
    kv_dtype: str | None = None


def choose_runner(
    checkpoint: Checkpoint, name: str, options: RunnerOptions, adapters: Sequence[Adapter] = ()
) -> Runner:
    """Loads the weights where they will run, and leaves room for `adapters` within a memory limit.

    Raises:
        ConfigError: the options contradict each other or the machine.
    """
    _check(options)
    if not _runs_native(options.device):
        return _torch_runner(checkpoint, options)
    from aquila.generate.native_runner import make_limited_runner, make_native_runner, planner  # noqa: PLC0415

    native = native_module()
    assert native is not None, "_runs_native has asked"
    if options.memory_limit is None:
        return make_native_runner(
            native,
            checkpoint,
            dtype=options.quantize or options.dtype,
            max_context=options.max_context,
            kv_bytes=options.kv_bytes,
            kv_dtype=options.kv_dtype,
        )
    limit = parse_limit(options.memory_limit)
    copy = packed_copy(checkpoint, name, options.quantize or options.dtype)
    context, kv_dtype = options.max_context, options.kv_dtype
    if not copy.path.exists():  # a limit that cannot work is refused before minutes of packing, not after
        planner(checkpoint.config, copy.formats, adapters=adapters, max_context=context, kv_dtype=kv_dtype)(limit)
    return make_limited_runner(
        native,
        open_copy(copy, name),
        memory_limit=limit,
        max_context=context,
        kv_dtype=kv_dtype,
        adapters=adapters,
    )


def _torch_runner(checkpoint: Checkpoint, options: RunnerOptions) -> Runner:
    native_only = ("quantize", "kv_dtype")
    for option in (name for name in native_only if getattr(options, name) is not None):
        raise ConfigError(
            f"{option}: needs the native CPU kernels (device cpu); on this device a model runs in fp32, bf16 or fp16"
        )
    # torch takes a second and 240 MB: only a process that runs it pays
    from aquila.generate.torch_runner import choose_device, make_runner  # noqa: PLC0415

    limit = None
    if options.memory_limit is not None:
        limit = parse_limit(options.memory_limit, of_process=False)
        if options.device is None and choose_device(None).type == "cpu":
            raise ConfigError(
                "memory_limit: needs an accelerator or the native CPU kernels, and neither is there; torch holds all "
                "weights in memory on a CPU"
            )
        if options.device == "cpu":
            log.warning(
                "memory_limit: without the native kernels the limit bounds what torch computes with; the other weights "
                "wait in memory of this process"
            )
    return make_runner(
        checkpoint,
        device=options.device,
        dtype=options.dtype,
        max_context=options.max_context,
        kv_bytes=options.kv_bytes,
        memory_limit=limit,
    )


def parse_limit(memory_limit: int | str, *, of_process: bool = True) -> int:
    """Bytes of a memory limit; `ConfigError` for one that no machine, or not this one, can give to a process."""
    if isinstance(memory_limit, int) and memory_limit < 0:
        raise ConfigError(f"memory_limit: {memory_limit} is negative; give what the process may take, as 2GiB")
    limit = parse_size(memory_limit)
    if limit == 0:
        raise ConfigError("memory_limit: 0 leaves no memory at all; leave it out for no limit, or give one as 2GiB")
    memory = read_memory()
    if of_process and memory is not None and limit > memory.total_bytes:
        raise ConfigError(
            f"memory_limit: {format_size(limit)} is more than the {format_size(memory.total_bytes)} that this machine "
            "has; leave it out for no limit"
        )
    return limit


def _check(options: RunnerOptions) -> None:
    for field, known in (("dtype", DTYPES), ("quantize", QUANTISATIONS), ("kv_dtype", KV_TYPES)):
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
