"""How a memory limit is spent: the whole process, not only the weights.

    interpreter, libraries, tokenizer + activations + norms + keys and values + ring + weights in memory <= limit

A decoder reads all weights once a step, always in the same order, so which of them are in memory does not matter, only
how many: as many layers as fit are loaded, spread evenly over the depth, and the rest passes through the ring while the
layers between are computed. Embedding rows are read as they are needed. Source: notes of this project's measurements in
docs/memory_limit.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from aquila.config import format_size
from aquila.errors import ConfigError
from aquila.kernels.formats import FORMATS
from aquila.model.config import ModelConfig

PAGE_SIZE = 16  # positions
PROCESS_RESERVE_BYTES = 24 << 20  # what Python may still take: results, threads, fragments
MIN_CONTEXT = 256  # positions; below that a model is of no use
KV_SHARE = 0.25  # of what is left beside the process, at most, unless a context was asked for
RING_SHARE = 0.06  # likewise
MAX_RING_BYTES, MIN_RING_BYTES = 64 << 20, 8 << 20
MAX_JOB_BYTES, MIN_JOB_BYTES = 2 << 20, 256 << 10  # of one matrix; measured: 2 to 8 MB read equally fast
READERS = 3  # 2 to 4 read equally fast
MAX_STEP_TOKENS, MIN_STEP_TOKENS = 512, 16
STEP_SHARE = 0.06
KV_ITEM_BYTES = {"f32": 4, "f16": 2, "i8": 1}


@dataclass(frozen=True)
class MemoryPlan:
    """What each part of the process gets, in bytes; they add up to at most the limit.

    Attributes:
        limit_bytes: what was asked for.
        process_bytes: interpreter, libraries, tokenizer and adapters, as they are, and a reserve.
        vector_bytes: norms and biases.
        step_bytes: activations of `step_tokens` tokens.
        kv_bytes: keys and values of `context` positions, kept as `kv_type`.
        ring_bytes: buffers that streamed weights pass through; 0 when everything is in memory.
        pinned_layers: layers in memory; the others are read from the file in every step.
        head_pinned: whether the output matrix is in memory.
        pinned_bytes: weights in memory.
        streamed_bytes: weights read from the file in every step.
    """

    limit_bytes: int
    process_bytes: int
    vector_bytes: int
    step_bytes: int
    step_tokens: int
    kv_bytes: int
    kv_type: str
    context: int
    full_context: int
    ring_bytes: int
    job_bytes: int
    slots: int
    num_layers: int
    pinned_layers: tuple[int, ...]
    head_pinned: bool
    embedding_pinned: bool
    pinned_bytes: int
    streamed_bytes: int

    @property
    def total_bytes(self) -> int:
        return (
            self.process_bytes
            + self.vector_bytes
            + self.step_bytes
            + self.kv_bytes
            + self.ring_bytes
            + self.pinned_bytes
        )

    def explain(self) -> str:
        """The plan as a table for people."""
        share = self.pinned_bytes / max(1, self.pinned_bytes + self.streamed_bytes)
        rows = [
            ("interpreter, libraries, tokenizer", self.process_bytes, ""),
            ("norms and biases", self.vector_bytes, ""),
            ("activations", self.step_bytes, f"{self.step_tokens} tokens a step"),
            ("keys and values", self.kv_bytes, f"{self.context} positions as {self.kv_type}{self._context_note()}"),
            ("ring for streamed weights", self.ring_bytes, f"{self.slots} pieces" if self.ring_bytes else "not needed"),
            (
                "weights in memory",
                self.pinned_bytes,
                f"{len(self.pinned_layers)} of {self.num_layers} layers{', head' if self.head_pinned else ''}, "
                f"{share:.0%} of what a step reads",
            ),
        ]
        lines = [f"memory limit {format_size(self.limit_bytes)}"]
        lines += [f"  {name:34} {format_size(size):>9}  {note}".rstrip() for name, size, note in rows]
        lines.append(f"  {'in all':34} {format_size(self.total_bytes):>9}")
        lines.append(f"read from the file in every step: {format_size(self.streamed_bytes)}")
        return "\n".join(lines)

    def _context_note(self) -> str:
        return "" if self.context == self.full_context else f", of {self.full_context} that the model has"

    def as_json(self) -> dict[str, int | str | bool | list[int]]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "pinned_layers": list(self.pinned_layers), "total_bytes": self.total_bytes}


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights, as a step reads them."""

    layer_bytes: int  # of the largest layer
    head_bytes: int
    embedding_bytes: int  # 0 when it is the head
    vector_bytes: int
    adapter_bytes: int = 0  # of all adapters, always in memory
    adapter_rank: int = 0  # the largest; 0 without adapters

    @classmethod
    def of(cls, config: ModelConfig, formats: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> "Weights":
        """From the formats of the matrices (`aquila.kernels.formats`) and the shapes of all tensors."""
        sizes = {name: FORMATS[item].matrix_bytes(*shapes[name]) for name, item in formats.items()}
        layers = [0] * config.num_hidden_layers
        for name, size in sizes.items():
            if name.startswith("model.layers."):
                layers[int(name.split(".")[2])] += -(-size // 4096) * 4096
        embedding = sizes["model.embed_tokens.weight"]
        vectors = sum(4 * -(-shape[0] // 32) * 32 for shape in shapes.values() if len(shape) == 1)
        if config.tie_word_embeddings:
            return cls(max(layers), embedding, 0, vectors)
        return cls(max(layers), sizes["lm_head.weight"], embedding, vectors)


def plan_memory(
    config: ModelConfig,
    weights: Weights,
    *,
    limit_bytes: int,
    process_bytes: int,
    threads: int,
    max_context: int | None = None,
) -> MemoryPlan:
    """Splits the limit.

    Args:
        config: of the model.
        weights: their sizes.
        limit_bytes: for the whole process.
        process_bytes: what the process takes now, with interpreter, libraries and tokenizer.
        threads: members of the team, each with a buffer of its own.
        max_context: positions that must fit; when None, as many of the model's as leave most of the room to weights.

    Raises:
        ConfigError: the limit cannot work; the message names the smallest that can.
    """
    base = process_bytes + weights.adapter_bytes + PROCESS_RESERVE_BYTES + weights.vector_bytes
    everything = _resident(config, weights, limit_bytes, base, threads, max_context)
    if everything is not None:
        return everything
    smallest = _smallest(config, weights, base, threads, max_context)
    if limit_bytes < smallest:
        asked = f" with {max_context} positions" if max_context else ""
        raise ConfigError(
            f"memory_limit: {format_size(limit_bytes)} is too little for this model{asked}; "
            f"the smallest that works is {_round_up(smallest)}"
        )
    plans = [_streamed(config, weights, limit_bytes, base, threads, max_context, kv) for kv in ("f16", "i8")]
    plain, compact = plans
    if plain is None or (compact is not None and len(compact.pinned_layers) > len(plain.pinned_layers)):
        assert compact is not None, "the smallest limit was computed with compact keys and values"
        return compact
    return plain


def kv_token_bytes(config: ModelConfig, kv_type: str) -> int:
    """Bytes that one position takes in all layers, heads padded to 16 dimensions."""
    dim = -(-config.head_dim // 16) * 16
    per_head = 2 * dim * KV_ITEM_BYTES[kv_type] + (8 if kv_type == "i8" else 0)
    return config.num_hidden_layers * config.num_key_value_heads * per_head


def step_bytes(config: ModelConfig, tokens: int, threads: int, adapter_rank: int = 0) -> int:
    """Activations and logits of a step of so many tokens, as native/decoder.cpp and adapters.cpp allocate them."""
    dim = -(-config.head_dim // 16) * 16
    hidden, wide = _up32(config.hidden_size), _up32(config.intermediate_size)
    qkv, attention = config.q_size + 2 * config.kv_size + 48, _up32(config.q_size)
    largest = max(hidden, attention, wide)
    floats = tokens * (hidden + qkv + config.num_attention_heads * dim + attention + wide)
    floats += max(tokens, threads) * largest + threads * (16 * 128 + 32 * (dim + 2))
    if adapter_rank:
        added = max(3 * (config.q_size + 16), 2 * wide, hidden)
        floats += tokens * (added + 3 * _up32(adapter_rank)) + threads * 8 * max(largest, _up32(adapter_rank))
    rotation = 2 * (config.head_dim // 2) * 4096
    return 4 * (floats + rotation + 4 * config.vocab_size) + (64 << 10)


def evenly(pinned: int, layers: int) -> tuple[int, ...]:
    """Which layers stay in memory, spread over the depth: reading the next one overlaps work on those between."""
    return tuple(index * layers // pinned for index in range(pinned))


def _resident(
    config: ModelConfig, weights: Weights, limit: int, base: int, threads: int, max_context: int | None
) -> MemoryPlan | None:
    """Everything in memory, when that fits with the whole context."""
    rank = weights.adapter_rank
    context = max_context or config.max_position_embeddings
    layers = config.num_hidden_layers
    pinned = layers * weights.layer_bytes + weights.head_bytes + weights.embedding_bytes
    for kv_type in ("f16", "i8"):
        kv = -(-context // PAGE_SIZE) * PAGE_SIZE * kv_token_bytes(config, kv_type)
        tokens = MAX_STEP_TOKENS
        beside = base + pinned + kv
        while tokens > 4 * MIN_STEP_TOKENS and beside + step_bytes(config, tokens, threads, rank) > limit:
            tokens //= 2
        plan = MemoryPlan(
            limit_bytes=limit,
            process_bytes=base - weights.vector_bytes,
            vector_bytes=weights.vector_bytes,
            step_bytes=step_bytes(config, tokens, threads, rank),
            step_tokens=tokens,
            kv_bytes=kv,
            kv_type=kv_type,
            context=context,
            full_context=config.max_position_embeddings,
            ring_bytes=0,
            job_bytes=0,
            slots=0,
            num_layers=layers,
            pinned_layers=tuple(range(layers)),
            head_pinned=True,
            embedding_pinned=True,
            pinned_bytes=pinned,
            streamed_bytes=0,
        )
        if plan.total_bytes <= limit:
            return plan
    return None


def _streamed(
    config: ModelConfig, weights: Weights, limit: int, base: int, threads: int, max_context: int | None, kv_type: str
) -> MemoryPlan | None:
    """As many layers in memory as fit beside the rest; None when not even the rest fits."""
    left = limit - base
    tokens = MAX_STEP_TOKENS
    rank = weights.adapter_rank
    while tokens > MIN_STEP_TOKENS and step_bytes(config, tokens, threads, rank) > STEP_SHARE * left:
        tokens //= 2
    step = step_bytes(config, tokens, threads, rank)
    ring, job, slots = _ring(max(MIN_RING_BYTES, min(MAX_RING_BYTES, int(RING_SHARE * left))))
    per_token = kv_token_bytes(config, kv_type)
    context = max_context or min(config.max_position_embeddings, max(MIN_CONTEXT, _whole(KV_SHARE * left / per_token)))
    kv = -(-context // PAGE_SIZE) * PAGE_SIZE * per_token
    room = left - step - ring - kv
    layers = config.num_hidden_layers
    head = room >= weights.head_bytes  # read whole in every step, like a layer
    pinned = max(0, min(layers, (room - head * weights.head_bytes) // weights.layer_bytes))
    total = layers * weights.layer_bytes + weights.head_bytes
    held = pinned * weights.layer_bytes + head * weights.head_bytes
    plan = MemoryPlan(
        limit_bytes=limit,
        process_bytes=base - weights.vector_bytes,
        vector_bytes=weights.vector_bytes,
        step_bytes=step,
        step_tokens=tokens,
        kv_bytes=kv,
        kv_type=kv_type,
        context=context,
        full_context=config.max_position_embeddings,
        ring_bytes=ring,
        job_bytes=job,
        slots=slots,
        num_layers=layers,
        pinned_layers=evenly(pinned, layers) if pinned else (),
        head_pinned=head,
        embedding_pinned=False,
        pinned_bytes=held,
        streamed_bytes=total - held,
    )
    return plan if plan.total_bytes <= limit else None


def _ring(budget: int) -> tuple[int, int, int]:
    """Bytes of the ring, of a piece of one matrix, and how many pieces; two matrices may be read as one piece."""
    job = max(MIN_JOB_BYTES, min(MAX_JOB_BYTES, budget // 16))
    per_slot = 2 * (job + 12288)  # pieces begin and end inside pages, and hold whole groups of rows
    slots = max(4, budget // per_slot)
    return slots * per_slot, job, slots


def _smallest(config: ModelConfig, weights: Weights, base: int, threads: int, max_context: int | None) -> int:
    """The least limit at which `_streamed` finds a plan."""
    low, high = base, base + (1 << 50)
    while high - low > 1 << 20:
        middle = (low + high) // 2
        if _streamed(config, weights, middle, base, threads, max_context, "i8") is None:
            low = middle
        else:
            high = middle
    return high


def _round_up(num_bytes: int) -> str:
    return f"{-(-num_bytes // (1 << 20))}MiB"


def _whole(tokens: float) -> int:
    return int(tokens) // MIN_CONTEXT * MIN_CONTEXT


def _up32(value: int) -> int:
    return -(-value // 32) * 32
