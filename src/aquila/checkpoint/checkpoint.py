"""What a reader hands out and what a writer takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aquila.checkpoint.names import expected_tensors, half_split_rows, reorder_rotary
from aquila.checkpoint.tensors import DTYPES, LazyTensor
from aquila.errors import CheckpointError
from aquila.model.config import ModelConfig
from aquila.tokenizer.tokenizer import Tokenizer

Format = Literal["native", "hf", "flagai", "gguf", "packed", "training"]
_SHOWN = 8  # tensors listed of each kind in an error


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint: nothing but headers has been read yet.

    `tensors` are canonical (names.py) and complete. `manifest` is what travels beside the weights: name,
    version, licence, chat_template and, for the native format and for pulled models, digests of the files.
    """

    path: Path
    format: Format
    config: ModelConfig
    tensors: dict[str, LazyTensor]
    manifest: dict[str, Any]
    has_tokenizer: bool
    load_tokenizer: Callable[[], Tokenizer]

    @property
    def dtype(self) -> str:
        """Name of the dtype most weights have; fp16 for a quantised checkpoint, which holds no such thing."""
        sizes = dict.fromkeys(DTYPES, 0)
        for tensor in self.tensors.values():
            kind = "fp16" if tensor.quantised else _dtype_name(tensor)
            sizes[kind] += tensor.num_elements
        return max(sizes, key=lambda kind: sizes[kind])


@dataclass(frozen=True, eq=False)
class Export:
    """A model on its way to a file: canonical `tensors`, stored as `dtype` (a key of DTYPES).

    `record` goes into the manifest or metadata (name, version, licence, chat_template, source); `progress` is
    called with the number of bytes written since its last call.
    """

    config: ModelConfig
    tensors: Mapping[str, LazyTensor]
    dtype: str
    tokenizer: Tokenizer | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    progress: Callable[[int], None] = lambda num_bytes: None

    def __post_init__(self) -> None:
        """Files know one order of rotary rows, so a model with the other one is reordered on its way."""
        if self.config.rope_interleaved:
            object.__setattr__(self, "tensors", reorder_rotary(self.tensors, self.config, half_split_rows))
            object.__setattr__(self, "config", self.config.model_copy(update={"rope_interleaved": False}))


def _dtype_name(tensor: LazyTensor) -> str:
    return next((name for name, dtype in DTYPES.items() if dtype == tensor.dtype), "fp32")


def require_complete(
    found: Mapping[str, LazyTensor],
    config: ModelConfig,
    where: Path,
    shown: Callable[[str], str] = lambda name: name,
) -> dict[str, LazyTensor]:
    """Checks canonical `found` against the model and returns it in file order.

    Raises:
        CheckpointError: tensors are missing, unknown or of another shape; all kinds are listed at once.
            `shown` turns a canonical name into the one that stands in the file.
    """
    expected = expected_tensors(config)
    missing = [f"{shown(name)} {list(expected[name])}" for name in expected if name not in found]
    extra = [f"{shown(name) if name in expected else name}" for name in found if name not in expected]
    wrong = [
        f"{shown(name)} is {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    problems = [
        f"{len(items)} {kind}: {', '.join(items[:_SHOWN])}{', ...' if len(items) > _SHOWN else ''}"
        for kind, items in (("missing", missing), ("unexpected", extra), ("of wrong shape", wrong))
        if items
    ]
    if problems:
        raise CheckpointError(
            f"{where}: tensors do not fit the model of its config ({len(found)} found, {len(expected)} "
            "expected); "
            f"{'; '.join(problems)}. Fetch the checkpoint again, or correct its config"
        )
    return {name: found[name] for name in expected}
