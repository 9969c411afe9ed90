"""`aquila doctor --model M`: what each memory limit would give a model on this machine.

The plans are those that `aquila generate` would make, the rates are measured here and now, and the tokens a second
follow from both by arithmetic (generate/memory_forecast.py).
"""

import os
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aquila.checkpoint.names import expected_tensors
from aquila.checkpoint.native_weights import DTYPE_FORMATS
from aquila.checkpoint.open import open_checkpoint
from aquila.config import suggest
from aquila.errors import CheckpointError, ConfigError
from aquila.files import cache_dir
from aquila.generate.load import longest_context
from aquila.generate.memory_forecast import forecast, limits_to_show, smallest_limit
from aquila.generate.memory_plan import MAX_JOB_BYTES, kv_token_bytes
from aquila.generate.native_runner import planner
from aquila.generate.packed_copy import packed_copy
from aquila.generate.runners import QUANTISATIONS, parse_limit
from aquila.generate.weight_rates import MIN_FILE_BYTES, Rates, measure_rates
from aquila.kernels.formats import FORMATS
from aquila.kernels.native import native_module
from aquila.machine import read_memory
from aquila.model.config import ModelConfig
from aquila.model.presets import preset
from aquila.zoo.registry import lookup, split_reference
from aquila.zoo.store import resolve

# What a process holds once it has a model's tokenizer, a token of the vocabulary, and its packed file open: measured
# on SmolLM2, for models that are not here, or not packed yet
_TOKENIZER_BYTES = 600
_PACKED_BYTES = 10 << 20
_MARGIN_BYTES = 4 << 20  # between this process and the one that will generate
_TEST_FILE_BYTES = 128 << 20


@dataclass(frozen=True)
class _Subject:
    """The model asked about.

    Attributes:
        path: of the checkpoint; None when it is not on this machine.
        packed: the file its weights are, or will be, read from; None when nothing is known of it.
        formats: of its matrices in that file.
        beside_bytes: what a process that runs it holds beyond this one.
    """

    name: str
    config: ModelConfig
    path: Path | None
    packed: Path | None
    formats: Mapping[str, str]
    beside_bytes: int


def examine_model(
    name: str, *, memory_limit: str | None, quantize: str | None, max_context: int | None
) -> dict[str, Any]:
    """The report: the model, the rates, and a forecast for each limit.

    Raises:
        AquilaError: there is no such model, or an option is not usable; as `aquila generate` would say.
    """
    native = native_module()
    if native is None:
        raise ConfigError(
            "--model: memory limits on a CPU need the native kernels, which are not there; `aquila doctor` says why"
        )
    if quantize is not None and quantize not in QUANTISATIONS:
        known = ", ".join(QUANTISATIONS)
        raise ConfigError(f"quantize: {quantize!r} is not one of {known}{suggest(quantize, QUANTISATIONS)}")
    subject = _find(name, quantize)
    config, memory = subject.config, read_memory()
    if max_context is not None and not 1 <= max_context <= longest_context(config):
        raise ConfigError(f"max_context: {max_context} is not between 1 and {longest_context(config)}")
    make_plan = planner(
        config, subject.formats, max_context=max_context, beside_bytes=subject.beside_bytes + _MARGIN_BYTES
    )
    most = memory.total_bytes if memory else 1 << 50
    smallest = smallest_limit(make_plan)
    limits = limits_to_show(make_plan, smallest=smallest, most_bytes=most)
    asked = None if memory_limit is None else parse_limit(memory_limit)
    if asked is not None:
        make_plan(asked)  # refuses what cannot work
        limits = sorted({*limits, asked})
    streamed = [plan for plan in map(make_plan, limits) if plan.streamed_bytes]
    ring = (streamed[-1].job_bytes, streamed[-1].slots) if streamed else (MAX_JOB_BYTES, 4)
    from rich.console import Console

    free_bytes = memory.available_bytes if memory else 4 << 30
    with Console(stderr=True).status("Measuring memory and disk"), _readable_file(subject) as file:
        rates = measure_rates(
            native, config, subject.formats, file=file, free_bytes=free_bytes, job_bytes=ring[0], slots=ring[1]
        )
    return {
        "ok": True,
        "model": subject.name,
        "device": "cpu",
        "path": str(subject.path) if subject.path else None,
        "num_layers": config.num_hidden_layers,
        "full_context": config.max_position_embeddings,
        "weights": {
            "format": _summary(subject.formats),
            "num_bytes": _weight_bytes(config, subject.formats),
            "file": str(subject.packed) if subject.packed else None,
            "packed": subject.packed is not None and subject.packed.exists(),
        },
        "memory": vars(memory) if memory else None,
        "rates": asdict(rates),
        "asked_bytes": asked,
        "smallest_limit_bytes": smallest,
        "limits": [asdict(forecast(make_plan(limit), rates)) for limit in limits],
        "no_limit": _without_limit(config, subject.formats, rates, free_bytes),
    }


def _without_limit(config: ModelConfig, formats: Mapping[str, str], rates: Rates, free_bytes: int) -> dict[str, Any]:
    """The same for all weights in memory, and whether there is room for them now."""
    size = _weight_bytes(config, formats)
    embedding = 0 if config.tie_word_embeddings else _matrix_bytes(config, formats, "model.embed_tokens.weight")
    needed = size + config.max_position_embeddings * kv_token_bytes(config, "f16")
    return {
        "tokens_per_second": rates.memory / (size - embedding),
        "needed_bytes": needed,
        "fits": needed <= free_bytes,
    }


def _weight_bytes(config: ModelConfig, formats: Mapping[str, str]) -> int:
    return sum(_matrix_bytes(config, formats, name) for name in formats)


def _matrix_bytes(config: ModelConfig, formats: Mapping[str, str], name: str) -> int:
    rows, columns = expected_tensors(config)[name]
    return FORMATS[formats[name]].matrix_bytes(rows, columns)


def _summary(formats: Mapping[str, str]) -> str:
    """Such as `w4, w8`, the format of the layers first."""
    inside = [form for name, form in formats.items() if name.startswith("model.layers.")]
    return ", ".join(dict.fromkeys([*inside, *formats.values()]))


def _find(name: str, quantize: str | None) -> _Subject:
    """Opens the model as `aquila generate` does, tokenizer and all; the shape alone of one that is not here."""
    try:
        path = resolve(name)
    except CheckpointError:  # known, but not pulled
        entry = lookup(split_reference(name)[0])
        assert entry is not None, "only a known model is said to be missing"
        config = preset(entry.preset)
        beside = config.vocab_size * _TOKENIZER_BYTES + _PACKED_BYTES
        return _Subject(entry.name, config, None, None, _formats(config, quantize or "bf16"), beside)
    checkpoint = open_checkpoint(path)
    if checkpoint.has_tokenizer:
        checkpoint.load_tokenizer()  # what it allocates stays with the process, as it does when generating
    copy = packed_copy(checkpoint, name, quantize)
    packed = copy.path.exists()
    if packed and copy.to is not None:
        open_checkpoint(copy.path)
    return _Subject(name, checkpoint.config, path, copy.path, copy.formats, 0 if packed else _PACKED_BYTES)


def _formats(config: ModelConfig, wanted: str) -> dict[str, str]:
    layers = DTYPE_FORMATS[wanted]
    outside = "w8" if wanted in ("w4", "w4m") else layers
    return {
        name: layers if name.startswith("model.layers.") else outside
        for name, shape in expected_tensors(config).items()
        if len(shape) == 2
    }


@contextmanager
def _readable_file(subject: _Subject) -> Generator[Path]:
    """A large file on the disk that the weights are, or will be, read from; a temporary one where there is none."""
    folder = cache_dir() / "packed" if subject.packed is None else subject.packed.parent
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    candidates = [subject.packed] if subject.packed is not None and subject.packed.exists() else []
    if subject.path is not None:
        inside = subject.path.rglob("*") if subject.path.is_dir() else [subject.path]
        candidates += [file for file in inside if file.is_file() and file.stat().st_dev == existing.stat().st_dev]
    largest = max(candidates, key=lambda file: file.stat().st_size, default=None)
    if largest is not None and largest.stat().st_size >= MIN_FILE_BYTES:
        yield largest
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        existing = Path(tempfile.gettempdir())
    unnamed = Path("/proc/self/fd").is_dir()  # then a kill leaves nothing behind
    make = tempfile.TemporaryFile if unnamed else tempfile.NamedTemporaryFile
    with make(dir=existing, prefix=".aquila-disk-") as file:
        block = os.urandom(4 << 20)  # some disks compress
        for _ in range(_TEST_FILE_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())  # what is not on the disk yet would be read from memory
        yield Path(f"/proc/self/fd/{file.fileno()}" if unnamed else file.name)
