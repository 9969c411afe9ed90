"""Runs steps on the CPU through the native kernels: quantised or plain weights, no torch in the process.

The counterpart of torch_runner. One call of the extension computes a whole step; Python is there once a step. A
request's logits have the same bits alone, in a batch, computed in pieces, with a cached prefix, or with weights that
are read from disk as they are needed: every sum is taken in one order.
"""

import gc
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from aquila.checkpoint.adapter import Adapter
from aquila.checkpoint.names import expected_tensors
from aquila.checkpoint.native_weights import choose_formats, fill, packed_bytes
from aquila.checkpoint.open import Checkpoint
from aquila.checkpoint.packed import packed_file
from aquila.checkpoint.tensors import LazyTensor
from aquila.config import format_size
from aquila.errors import GenerationError
from aquila.generate.lookup import ROW_COST
from aquila.generate.memory_plan import PAGE_SIZE, READERS, MemoryPlan, Weights, kv_token_bytes, plan_memory
from aquila.generate.native_adapter import SLOTS, adapter_bytes, place_adapter
from aquila.generate.runner import SequenceStep
from aquila.kernels.formats import FORMATS
from aquila.machine import read_cpu, read_memory, resident_bytes
from aquila.model.config import ModelConfig
from aquila.model.frequencies import inverse_frequencies

if TYPE_CHECKING:
    from aquila.kernels._native import Decoder

NORMS = ("input_layernorm", "post_attention_layernorm")
MIN_PROCESS_BYTES = 64 << 20  # taken where the system does not say what the process holds
DRAFT_TOKENS = 3  # a step of four tokens costs little more than one of one: the weights are read once
STREAMED_DRAFT_TOKENS = 8  # and hardly anything more when the disk sets the pace
STREAMED_ROW_COST = 0.02
_CHECK_FILE = "check the disk, and `aquila verify` the file"


class NativeRunner:
    """A `Runner` over a decoder of the extension, whose weights are in place.

    Args:
        decoder: `_native.Decoder`.
        config: of the model.
        max_context: positions a sequence may have.
        num_pages: pages of keys and values, of 16 positions.
        kv_type: "f32", "f16" or "i8", how keys and values are kept.
    """

    page_size = PAGE_SIZE

    plan: MemoryPlan | None = None  # under a memory limit

    def __init__(self, decoder: "Decoder", config: ModelConfig, *, max_context: int, num_pages: int, kv_type: str):
        self.decoder = decoder
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_context = max_context
        self.num_pages = num_pages
        self.kv_type = kv_type
        self._num_adapters = 0
        # dynamic rotary scaling is set by the context served, so that caches stay valid
        self._frequencies = inverse_frequencies(config, max_context)  # [pairs]
        try:
            decoder.set_pages(num_pages, kv_type)
        except MemoryError:
            raise GenerationError(
                f"no room for the keys and values of {max_context} positions; give a smaller max_context"
            ) from None

    @property
    def draft_tokens(self) -> int:
        """See `Runner.draft_tokens`."""
        streamed = self.plan is not None and self.plan.streamed_bytes > 0
        return STREAMED_DRAFT_TOKENS if streamed else DRAFT_TOKENS

    @property
    def row_cost(self) -> float:
        """See `Runner.row_cost`."""
        streamed = self.plan is not None and self.plan.streamed_bytes > 0
        return STREAMED_ROW_COST if streamed else ROW_COST

    def load_adapter(self, adapter: Adapter) -> int:
        """See `Runner.load_adapter`."""
        place_adapter(self.decoder, self._num_adapters + 1, adapter)
        self._num_adapters += 1
        return self._num_adapters

    def step(self, batch: Sequence[SequenceStep]) -> Float[np.ndarray, "rows vocab"]:
        """See `Runner.step`."""
        tokens: list[int] = []
        positions: list[np.ndarray] = []
        pages: list[int] = []
        spans = np.empty((len(batch), 6), np.int64)
        for row, item in zip(spans, batch, strict=True):
            count = len(item.token_ids)
            row[:] = (len(tokens), count, item.start, item.num_logits, len(pages), item.adapter)
            tokens += item.token_ids
            pages += item.pages
            positions.append(np.arange(item.start, item.start + count))
        cos, sin = _rotation(np.concatenate(positions), self._frequencies)
        logits = np.empty((int(spans[:, 3].sum()), self.config.vocab_size), np.float32)
        try:
            self.decoder.step(
                np.array(tokens, np.int32),
                spans,
                np.array(pages, np.int32),
                cos,
                sin,
                logits,
            )
        except RuntimeError as error:
            raise GenerationError(
                f"{error}; the weights cannot be read any more, so the request ends here; {_CHECK_FILE}"
            ) from None
        return logits


def _rotation(positions: np.ndarray, frequencies: Float[np.ndarray, " pairs"]) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of the angles at `positions [tokens]`, float32 `[tokens, pairs]`.

    `memory_plan.step_bytes` counts what is alive here at once.
    """
    # the product in fp32, as the torch model has it
    angles = (positions.astype(np.float32)[:, None] * frequencies).astype(np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def make_decoder(
    native: ModuleType, config: ModelConfig, *, threads: int | None = None, kernels: str = ""
) -> "Decoder":
    """An empty decoder of the extension. `kernels` names an instruction set; the best one when empty."""
    return native.Decoder(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        vocab=config.vocab_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        eps=config.rms_norm_eps,
        interleaved=config.rope_interleaved,
        kernels=kernels,
        threads=threads or read_cpu().num_usable_threads,
    )


def make_native_runner(
    native: ModuleType,
    checkpoint: Checkpoint,
    *,
    dtype: str | None = None,
    max_context: int | None = None,
    kv_bytes: int = 1 << 30,
    kv_dtype: str | None = None,
    threads: int | None = None,
    kernels: str = "",
) -> NativeRunner:
    """Loads the weights of a checkpoint into memory. See `aquila.load` for the arguments."""
    config, tensors = checkpoint.config, checkpoint.tensors
    formats = choose_formats(tensors, dtype)
    total = packed_bytes(tensors, formats)
    memory = read_memory()
    if memory is not None and total > memory.available_bytes:
        raise GenerationError(
            f"the weights take {format_size(total)} as {_summary(formats)}, and {format_size(memory.available_bytes)} "
            "of memory is free; give a memory_limit to read them from disk as they are used, or quantize to w4"
        )
    decoder = make_decoder(native, config, threads=threads, kernels=kernels)
    place_weights(native, decoder, checkpoint, formats, pinned=tuple(formats))
    kv_type = kv_dtype or ("f32" if "f32" in formats.values() else "f16")
    context = max_context or config.max_position_embeddings
    per_page = PAGE_SIZE * kv_token_bytes(config, kv_type)
    num_pages = max(kv_bytes // per_page, -(-context // PAGE_SIZE))
    return NativeRunner(decoder, config, max_context=context, num_pages=num_pages, kv_type=kv_type)


def make_limited_runner(
    native: ModuleType,
    checkpoint: Checkpoint,
    *,
    memory_limit: int,
    max_context: int | None = None,
    kv_dtype: str | None = None,
    threads: int | None = None,
    adapters: Sequence[Adapter] = (),
) -> NativeRunner:
    """Runs a packed checkpoint within `memory_limit` bytes for the whole process. `ConfigError` when that cannot be.

    `adapters` are those that will be loaded.
    """
    config = checkpoint.config
    decoder = make_decoder(native, config, threads=threads)
    formats = choose_formats(checkpoint.tensors, None)
    make_plan = planner(
        config, formats, adapters=adapters, threads=decoder.threads, max_context=max_context, kv_dtype=kv_dtype
    )
    plan = make_plan(memory_limit)
    held = {f"model.layers.{layer}." for layer in plan.pinned_layers}
    pinned = tuple(name for name in formats if name.startswith("model.layers.") and _prefix(name) in held)
    if plan.head_pinned:
        pinned += ("model.embed_tokens.weight",) if config.tie_word_embeddings else ("lm_head.weight",)
    if plan.embedding_pinned and not config.tie_word_embeddings:
        pinned += ("model.embed_tokens.weight",)
    place_weights(native, decoder, checkpoint, formats, pinned=pinned)
    if plan.reads_file:
        with _reading():
            decoder.set_stream(str(checkpoint.path), plan.job_bytes, plan.slots, READERS)
    num_pages = -(-plan.context // PAGE_SIZE)
    runner = NativeRunner(decoder, config, max_context=plan.context, num_pages=num_pages, kv_type=plan.kv_type)
    runner.plan = plan
    return runner


def planner(
    config: ModelConfig,
    formats: Mapping[str, str],
    *,
    adapters: Sequence[Adapter] = (),
    threads: int | None = None,
    max_context: int | None = None,
    kv_dtype: str | None = None,
    beside_bytes: int = 0,
) -> Callable[[int], MemoryPlan]:
    """From a limit in bytes to a plan, weights in `formats`. See `plan_memory`.

    The process is taken as it is now, and to hold `beside_bytes` more.
    """
    weights = replace(
        Weights.of(config, formats, expected_tensors(config)),
        adapter_bytes=sum(map(adapter_bytes, adapters)),
        adapter_rank=max((adapter.rank for adapter in adapters), default=0),
    )
    gc.collect()
    held = max(resident_bytes() or 0, MIN_PROCESS_BYTES)

    def make_plan(limit_bytes: int) -> MemoryPlan:
        return plan_memory(
            config,
            weights,
            limit_bytes=limit_bytes,
            process_bytes=held + beside_bytes,
            threads=threads or read_cpu().num_usable_threads,
            max_context=max_context,
            kv_dtype=kv_dtype,
        )

    return make_plan


def place_weights(
    native: ModuleType,
    decoder: "Decoder",
    checkpoint: Checkpoint,
    formats: dict[str, str],
    *,
    pinned: Sequence[str],
) -> None:
    """Loads the matrices named `pinned` into one run of memory, and tells the decoder where the file has the others."""
    config, tensors = checkpoint.config, checkpoint.tensors
    sizes = {name: FORMATS[formats[name]].matrix_bytes(*tensors[name].shape) for name in pinned}
    room = native.Buffer(max(1, sum(-(-size // 64) * 64 for size in sizes.values()))).array()
    in_file = packed_file(checkpoint.path).tensors if checkpoint.format == "packed" else {}
    placed, start = {}, 0
    for name, size in sizes.items():
        placed[name] = room[start : start + size]
        if name in in_file and in_file[name].format == formats[name]:
            with _reading():
                native.read_file(str(checkpoint.path), in_file[name].offset, placed[name])
        else:
            fill(native, name, tensors[name], formats[name], placed[name])
        start += -(-size // 64) * 64

    def matrix(layer: int, slot: int, name: str) -> None:
        rows, columns = tensors[name].shape
        if name in placed:
            decoder.set_matrix(layer, slot, formats[name], rows, columns, placed[name])
        else:
            decoder.set_streamed(layer, slot, formats[name], rows, columns, in_file[name].offset)

    matrix(-1, 0, "model.embed_tokens.weight")
    matrix(-1, 1, "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight")
    for layer in range(config.num_hidden_layers):
        for slot, part in enumerate(SLOTS):
            matrix(layer, slot, f"model.layers.{layer}.{part}.weight")
    set_vectors(decoder, config, tensors)


@contextmanager
def _reading() -> Generator[None]:
    """What the extension says of a file that it cannot read, as an error for people."""
    try:
        yield
    except RuntimeError as error:
        raise GenerationError(f"{error}; {_CHECK_FILE}") from None


def set_vectors(decoder: "Decoder", config: ModelConfig, tensors: dict[str, LazyTensor]) -> None:
    """Norm weights and biases, which are always in memory."""

    def vector(name: str) -> np.ndarray:
        return np.ascontiguousarray(tensors[name].numpy(np.dtype(np.float32)))

    decoder.set_norm(-1, 0, vector("model.norm.weight"))
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        for which, norm in enumerate(NORMS):
            decoder.set_norm(layer, which, vector(f"{prefix}{norm}.weight"))
        if config.qkv_bias:
            for slot, part in enumerate(SLOTS[:3]):
                decoder.set_bias(layer, slot, vector(f"{prefix}{part}.bias"))


def _prefix(name: str) -> str:
    """`model.layers.7.` of a tensor's name."""
    return ".".join(name.split(".")[:3]) + "."


def _summary(formats: dict[str, str]) -> str:
    return ", ".join(dict.fromkeys(formats.values()))
