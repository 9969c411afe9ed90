"""How a memory limit is spent: the whole process, not only the weights.

    interpreter, libraries, tokenizer + activations + norms + keys and values + ring + weights in memory <= limit

A decoder reads all weights once a step, always in the same order, so which of them are in memory does not matter, only
how many: as many layers as fit are loaded, spread evenly over the depth, and the rest passes through the ring while the
layers between are computed. Embedding rows are read as they are needed. Source: notes of this project's measurements in
docs/memory_limit.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from aquila.config import format_size
from aquila.errors import ConfigError
from aquila.kernels.formats import FORMATS
from aquila.model.config import ModelConfig

if TYPE_CHECKING:
    from aquila.generate.device_plan import DevicePlan

MIB = 1 << 20
_BEYOND = 1 << 50  # bytes; no model needs as much
PAGE_SIZE = 16  # positions
ATTENTION_CHUNK = 128  # positions; kChunk of native/types.h
PROCESS_RESERVE_BYTES = 24 << 20  # what Python may still take: results, threads, fragments
MIN_CONTEXT = 256  # positions; below that a model is of no use
KV_SHARE = 0.25  # of what is left beside the process, at most, unless a context was asked for
RING_SHARE = 0.06  # likewise
MAX_RING_BYTES, MIN_RING_BYTES = 64 << 20, 8 << 20
MAX_JOB_BYTES, MIN_JOB_BYTES = 2 << 20, 256 << 10  # of one matrix; measured: 2 to 8 MB read equally fast
READERS = 3  # 2 to 4 read equally fast
ROWS_RING_BYTES = 128 << 10  # where only rows of the embedding are read
MAX_STEP_TOKENS, MIN_STEP_TOKENS = 512, 16
STEP_SHARE = 0.06
KV_ITEM_BYTES = {"f32": 4, "f16": 2, "i8": 1}
KV_TYPES = ("f16", "i8")  # under a limit
WORTH_I8 = 0.2  # of what a step reads from the file: so much less is worth keys and values that are rounded


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
        embedding_bytes: of the embedding in memory, where it is a matrix of its own.
        embedding_pinned: whether no rows of the embedding are read from the file.
        pinned_bytes: weights in memory that a step reads.
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
    embedding_bytes: int
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
            + self.embedding_bytes
            + self.pinned_bytes
        )

    @property
    def reads_file(self) -> bool:
        """Whether a step reads anything from the file, if only rows of the embedding."""
        return self.ring_bytes > 0

    def explain(self) -> str:
        """The plan as a table for people."""
        share = self.pinned_bytes / max(1, self.pinned_bytes + self.streamed_bytes)
        rows = [
            ("interpreter, libraries, tokenizer", self.process_bytes, ""),
            ("norms and biases", self.vector_bytes, ""),
            ("activations", self.step_bytes, f"{self.step_tokens} tokens a step"),
            ("keys and values", self.kv_bytes, f"{self.context} positions as {self.kv_type}{self._context_note()}"),
            ("ring for streamed weights", self.ring_bytes, self._ring_note()),
            (
                "weights in memory",
                self.pinned_bytes,
                f"{len(self.pinned_layers)} of {self.num_layers} layers{', head' if self.head_pinned else ''}, "
                f"{share:.0%} of what a step reads",
            ),
        ]
        if self.embedding_bytes:
            rows.append(("embedding", self.embedding_bytes, ""))
        lines = [f"memory limit {format_size(self.limit_bytes)}"]
        lines += [f"  {name:34} {format_size(size):>9}  {note}".rstrip() for name, size, note in rows]
        lines.append(f"  {'in all':34} {format_size(self.total_bytes):>9}")
        lines.append(f"read from the file in every step: {format_size(self.streamed_bytes)}")
        return "\n".join(lines)

    def _context_note(self) -> str:
        return "" if self.context == self.full_context else f", of {self.full_context} that the model has"

    def _ring_note(self) -> str:
        if not self.ring_bytes:
            return "not needed"
        return f"{self.slots} pieces" if self.streamed_bytes else "for rows of the embedding"

    def as_json(self) -> dict[str, int | str | bool | list[int]]:
        return plan_as_json(self)


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
    kv_dtype: str | None = None,
) -> MemoryPlan:
    """Splits the limit.

    Keys and values are f16, as without a limit, so that the text is the same. They are i8 where f16 has no room for the
    context, and where i8 spares a good part (`WORTH_I8`) of what would be read in every step with the same context.

    Args:
        config: of the model.
        weights: their sizes.
        limit_bytes: for the whole process.
        process_bytes: what the process takes now, with interpreter, libraries and tokenizer.
        threads: members of the team, each with a buffer of its own.
        max_context: positions that must fit; when None, as many of the model's as leave most of the room to weights.
        kv_dtype: "f16" or "i8"; chosen as said above when None.

    Raises:
        ConfigError: the limit cannot work; the message names the smallest that can.
    """
    split = _Split(config, weights, process_bytes, threads, max_context)
    plans = {kv: split.best(limit_bytes, kv, alone=kv_dtype is not None) for kv in KV_TYPES if kv_dtype in (None, kv)}
    plain, compact = plans.get("f16"), plans.get("i8")
    if compact is not None and (plain is None or (plain.streamed_bytes and split.worth_i8(limit_bytes))):
        return compact
    if plain is not None:
        return plain
    smallest = split.smallest(kv_dtype or "i8")
    asked = f" with {max_context} positions" if max_context else ""
    asked += f" in {kv_dtype}" if kv_dtype else ""
    raise ConfigError(
        f"memory_limit: {format_size(limit_bytes)} is too little for this model{asked}; "
        f"the smallest that works is {_round_up(smallest)}"
    )


def kv_token_bytes(config: ModelConfig, kv_type: str) -> int:
    """Bytes that one position takes in all layers, heads padded to 16 dimensions."""
    dim = -(-config.head_dim // 16) * 16
    per_head = 2 * dim * KV_ITEM_BYTES[kv_type] + (8 if kv_type == "i8" else 0)
    return config.num_hidden_layers * config.num_key_value_heads * per_head


def step_bytes(
    config: ModelConfig, tokens: int, threads: int, adapter_rank: int = 0, *, context: int | None = None
) -> int:
    """Activations and logits of a step of so many tokens, as native/decoder.cpp and adapters.cpp allocate them.

    One sequence may reach `context` positions, by default all that the model has.
    """
    dim = -(-config.head_dim // 16) * 16
    hidden, wide = _up32(config.hidden_size), _up32(config.intermediate_size)
    qkv, attention = config.q_size + 2 * config.kv_size + 48, _up32(config.q_size)
    largest = max(hidden, attention, wide)
    floats = tokens * (hidden + qkv + config.num_attention_heads * dim + attention + wide)
    floats += max(tokens, threads) * largest + threads * (16 * 128 + 32 * (dim + 2))
    if adapter_rank:
        added = max(3 * (config.q_size + 16), 2 * wide, hidden)
        floats += tokens * (added + 3 * _up32(adapter_rank)) + threads * 8 * max(largest, _up32(adapter_rank))
    if config.num_key_value_heads < 8 * threads:  # its chunks of positions go to different threads
        chunks = -(-(context or config.max_position_embeddings) // ATTENTION_CHUNK)
        floats += chunks * config.num_attention_heads * (dim + 2)
    rotation = 6 * tokens * (config.head_dim // 2)  # angles and sines in float64, cosines and sines in float32
    return 4 * (floats + rotation + 4 * config.vocab_size) + (64 << 10)


def least_limit(works: Callable[[int], bool], *, base: int = 0) -> int:
    """The least limit of `base` bytes and whole MiB that works, as all above it do."""
    low, high = 0, _BEYOND // MIB
    while high - low > 1:
        middle = (low + high) // 2
        if works(base + middle * MIB):
            high = middle
        else:
            low = middle
    return base + high * MIB


def plan_as_json(plan: "MemoryPlan | DevicePlan") -> dict[str, int | str | bool | list[int]]:
    """The fields of a plan and what they add up to."""
    values = {each.name: getattr(plan, each.name) for each in fields(plan)}
    return {**values, "pinned_layers": list(plan.pinned_layers), "total_bytes": plan.total_bytes}


def evenly(pinned: int, layers: int) -> tuple[int, ...]:
    """Which layers stay in memory, spread over the depth: reading the next one overlaps work on those between."""
    return tuple(index * layers // pinned for index in range(pinned))


@dataclass(frozen=True)
class _Split:
    """Everything that is the same at each limit."""

    config: ModelConfig
    weights: Weights
    process_bytes: int
    threads: int
    max_context: int | None

    def best(self, limit: int, kv_type: str, *, alone: bool = True) -> MemoryPlan | None:
        """The plan that reads least in a step; None when there is none. `alone`: the other type is out of question."""
        return self._resident(limit, kv_type) or self._streamed(limit, kv_type, kv_type if alone else "f16")

    def smallest(self, kv_type: str) -> int:
        """The least limit that works."""
        return least_limit(lambda limit: self.best(limit, kv_type) is not None, base=self._base)

    def worth_i8(self, limit: int) -> bool:
        """Whether i8 would spare enough of what a streamed plan reads; in bytes: in layers the answer would waver."""
        context = self._context(limit, "f16")
        missing = self._step_reads - self._room(limit, "f16", context)[0]
        spared = kv_token_bytes(self.config, "f16") - kv_token_bytes(self.config, "i8")
        return spared * in_pages(context) >= WORTH_I8 * missing

    @property
    def _step_reads(self) -> int:
        return self.config.num_hidden_layers * self.weights.layer_bytes + self.weights.head_bytes

    @property
    def _base(self) -> int:
        weights = self.weights
        return self.process_bytes + weights.adapter_bytes + PROCESS_RESERVE_BYTES + weights.vector_bytes

    def _resident(self, limit: int, kv_type: str) -> MemoryPlan | None:
        """All that a step reads in memory, with the context asked for, or half of what a streamed plan would have.

        What is left beside goes to the context, then to the embedding, of which a step reads but a few rows.
        """
        weights = self.weights
        per_token = kv_token_bytes(self.config, kv_type)
        full = self.config.max_position_embeddings
        wanted = self.max_context or min(full, max(MIN_CONTEXT, self._share_of_context(limit, "f16") // 2))
        tokens = MAX_STEP_TOKENS
        while True:
            left = limit - self._base - self._step_reads - self._step_bytes(tokens)
            if left - ROWS_RING_BYTES >= in_pages(wanted) * per_token:
                break
            if tokens <= 4 * MIN_STEP_TOKENS:
                return None
            tokens //= 2
        embedding = weights.embedding_bytes
        context = self.max_context or self._longest(left - ROWS_RING_BYTES, per_token)
        left -= in_pages(context) * per_token
        whole = left >= embedding and (not embedding or self.max_context is not None or context == full)
        return self._plan(
            limit,
            step_tokens=tokens,
            kv_type=kv_type,
            context=context,
            ring=(0, 0, 0) if whole else (ROWS_RING_BYTES, MIN_JOB_BYTES, 4),
            pinned=self.config.num_hidden_layers,
            head=True,
            embedding=whole,
        )

    def _streamed(self, limit: int, kv_type: str, measure: str) -> MemoryPlan | None:
        """As many layers in memory as fit beside the rest; None when not even the rest fits.

        The context is what its share of the room holds in the type `measure`.
        """
        weights, layers = self.weights, self.config.num_hidden_layers
        per_token = kv_token_bytes(self.config, kv_type)
        context = self._context(limit, measure)
        room, tokens, ring = self._room(limit, kv_type, context)
        if room < 0:
            return None
        head = room >= weights.head_bytes  # read whole in every step, like a layer
        room -= head * weights.head_bytes
        pinned = min(layers, room // weights.layer_bytes)
        room -= pinned * weights.layer_bytes
        if self.max_context is None:  # less than a layer is left: positions are the only thing it can hold
            context = max(context, self._longest(room + in_pages(context) * per_token, per_token))
        return self._plan(
            limit,
            step_tokens=tokens,
            kv_type=kv_type,
            context=context,
            ring=ring,
            pinned=pinned,
            head=head,
            embedding=False,
        )

    def _plan(
        self,
        limit: int,
        *,
        step_tokens: int,
        kv_type: str,
        context: int,
        ring: tuple[int, int, int],
        pinned: int,
        head: bool,
        embedding: bool,
    ) -> MemoryPlan:
        weights, layers = self.weights, self.config.num_hidden_layers
        held = pinned * weights.layer_bytes + head * weights.head_bytes
        plan = MemoryPlan(
            limit_bytes=limit,
            process_bytes=self._base - weights.vector_bytes,
            vector_bytes=weights.vector_bytes,
            step_bytes=self._step_bytes(step_tokens),
            step_tokens=step_tokens,
            kv_bytes=in_pages(context) * kv_token_bytes(self.config, kv_type),
            kv_type=kv_type,
            context=context,
            full_context=self.config.max_position_embeddings,
            ring_bytes=ring[0],
            job_bytes=ring[1],
            slots=ring[2],
            num_layers=layers,
            pinned_layers=evenly(pinned, layers) if pinned else (),
            head_pinned=head,
            embedding_bytes=weights.embedding_bytes if embedding else 0,
            embedding_pinned=embedding,
            pinned_bytes=held,
            streamed_bytes=self._step_reads - held,
        )
        assert plan.total_bytes <= limit, "the parts were measured out of the limit"
        return plan

    def _room(self, limit: int, kv_type: str, context: int) -> tuple[int, int, tuple[int, int, int]]:
        """What a streamed plan has for weights, tokens of its steps, and its ring."""
        left = limit - self._base
        tokens = MAX_STEP_TOKENS
        while tokens > MIN_STEP_TOKENS and self._step_bytes(tokens) > STEP_SHARE * left:
            tokens //= 2
        ring = _ring(max(MIN_RING_BYTES, min(MAX_RING_BYTES, int(RING_SHARE * left))))
        kv = in_pages(context) * kv_token_bytes(self.config, kv_type)
        return left - self._step_bytes(tokens) - ring[0] - kv, tokens, ring

    def _context(self, limit: int, kv_type: str) -> int:
        """Positions of a streamed plan: as asked for, or what the share of keys and values holds in a type."""
        shared = self._share_of_context(limit, kv_type) // MIN_CONTEXT * MIN_CONTEXT
        return self.max_context or min(self.config.max_position_embeddings, max(MIN_CONTEXT, shared))

    def _share_of_context(self, limit: int, kv_type: str) -> int:
        """Positions that the share of keys and values holds."""
        return max(0, int(KV_SHARE * (limit - self._base) / kv_token_bytes(self.config, kv_type)))

    def _longest(self, room: int, per_token: int) -> int:
        """Positions that fit: all of the model's, or a multiple of MIN_CONTEXT."""
        full = self.config.max_position_embeddings
        return full if in_pages(full) * per_token <= room else room // per_token // MIN_CONTEXT * MIN_CONTEXT

    def _step_bytes(self, tokens: int) -> int:
        return step_bytes(self.config, tokens, self.threads, self.weights.adapter_rank, context=self.max_context)


def _ring(budget: int) -> tuple[int, int, int]:
    """Bytes of the ring, of a piece of one matrix, and how many pieces; two matrices may be read as one piece."""
    job = max(MIN_JOB_BYTES, min(MAX_JOB_BYTES, budget // 16))
    per_slot = 2 * (job + 12288)  # pieces begin and end inside pages, and hold whole groups of rows
    slots = max(4, budget // per_slot)
    return slots * per_slot, job, slots


def in_pages(positions: int) -> int:
    """Positions of the whole pages that hold so many."""
    return -(-positions // PAGE_SIZE) * PAGE_SIZE


def _round_up(num_bytes: int) -> str:
    return f"{-(-num_bytes // (1 << 20))}MiB"


def _up32(value: int) -> int:
    return -(-value // 32) * 32
