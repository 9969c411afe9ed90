"""How a limit of an accelerator's memory is spent, when a model runs on torch (layer_stream.py).

    driver and libraries + head and norms + activations + keys and values + two slots + layers on the device <= limit

The layers that are not on the device lie in the host's memory and pass through the slots in every step: one is computed
while the next one is copied. Source of the scheme: as memory_plan.py, whose arguments hold here as well.
"""

from dataclasses import dataclass
from math import prod

from aquila.checkpoint.names import expected_tensors
from aquila.config import format_size
from aquila.errors import ConfigError
from aquila.generate.memory_plan import (
    KV_SHARE,
    MAX_STEP_TOKENS,
    MIN_CONTEXT,
    MIN_STEP_TOKENS,
    evenly,
    in_pages,
    least_limit,
    plan_as_json,
)
from aquila.model.config import ModelConfig
from aquila.model.count import kv_bytes_per_token

DRIVER_BYTES = 640 << 20  # context, kernels and workspaces, of which torch knows nothing: 0.4 to 0.6 GB are usual
ALIGNMENT = 64  # bytes, of tensors in a slot
STEP_SHARE = 0.15  # of what there is to share out, at most: longer pieces of a prompt stream the layers less often
MAX_LOGIT_ROWS = 64


@dataclass(frozen=True)
class DevicePlan:
    """What each part gets on the device, in bytes; they add up to at most the limit.

    Attributes:
        device: its name.
        limit_bytes: what was asked for.
        process_bytes: the driver's, and what torch held there before.
        outside_bytes: head and last norm, and the embedding where it is on the device.
        step_bytes: activations of `step_tokens` tokens, at most.
        kv_bytes: keys and values of `context` positions.
        slot_bytes: of the two layers that others pass through; 0 when all layers are on the device.
        pinned_layers: layers on the device; the others lie in the host's memory.
        embedding_on_host: whether rows of the embedding are looked up there.
        pinned_bytes: layers on the device.
        streamed_bytes: copied to the device in every step.
        host_bytes: weights in the host's memory.
    """

    device: str
    limit_bytes: int
    process_bytes: int
    outside_bytes: int
    step_bytes: int
    step_tokens: int
    kv_bytes: int
    context: int
    full_context: int
    slot_bytes: int
    num_layers: int
    pinned_layers: tuple[int, ...]
    embedding_on_host: bool
    pinned_bytes: int
    streamed_bytes: int
    host_bytes: int

    @property
    def total_bytes(self) -> int:
        return (
            self.process_bytes
            + self.outside_bytes
            + self.step_bytes
            + self.kv_bytes
            + self.slot_bytes
            + self.pinned_bytes
        )

    def explain(self) -> str:
        """The plan as a table for people."""
        of_model = "" if self.context == self.full_context else f", of {self.full_context} that the model has"
        rows = [
            ("driver and libraries", self.process_bytes, ""),
            (f"{'head' if self.embedding_on_host else 'embedding, head'}, last norm", self.outside_bytes, ""),
            ("activations", self.step_bytes, f"{self.step_tokens} tokens a step"),
            ("keys and values", self.kv_bytes, f"{self.context} positions{of_model}"),
            ("slots for streamed layers", self.slot_bytes, "2 layers" if self.slot_bytes else "not needed"),
            ("layers on the device", self.pinned_bytes, f"{len(self.pinned_layers)} of {self.num_layers}"),
        ]
        lines = [f"memory limit {format_size(self.limit_bytes)} on {self.device}"]
        lines += [f"  {name:34} {format_size(size):>9}  {note}".rstrip() for name, size, note in rows]
        lines.append(f"  {'in all':34} {format_size(self.total_bytes):>9}")
        lines.append(f"copied to the device in every step: {format_size(self.streamed_bytes)}")
        lines.append(f"in the host's memory: {format_size(self.host_bytes)}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, int | str | bool | list[int]]:
        return plan_as_json(self)


def plan_device(
    config: ModelConfig,
    *,
    itemsize: int,
    device: str,
    limit_bytes: int,
    process_bytes: int,
    max_context: int | None = None,
) -> DevicePlan:
    """Splits the limit.

    Args:
        config: of the model.
        itemsize: bytes of a weight, and of a number in keys and values.
        device: its name, for people.
        limit_bytes: of the device's memory.
        process_bytes: what is taken there before anything is loaded.
        max_context: positions that must fit; when None, as many of the model's as leave most of the room to layers.

    Raises:
        ConfigError: the limit cannot work; the message names the smallest that can.
    """
    split = _Split(config, itemsize, device, process_bytes, max_context)
    plan = split.best(limit_bytes)
    if plan is not None:
        return plan
    asked = f" with {max_context} positions" if max_context else ""
    raise ConfigError(
        f"memory_limit: {format_size(limit_bytes)} is too little for this model on {device}{asked}; "
        f"the smallest that works is {-(-split.smallest() // (1 << 20))}MiB"
    )


def layer_places(config: ModelConfig, itemsize: int) -> tuple[dict[str, tuple[int, tuple[int, ...]]], int]:
    """Where each tensor of a layer lies in a slot, as (first element, shape), and how many elements a slot has.

    In file order, so that q, k, v and gate, up are neighbours: as one matrix they are multiplied at once. Names are
    those below `model.layers.N.`.
    """
    grain = ALIGNMENT // itemsize
    places: dict[str, tuple[int, tuple[int, ...]]] = {}
    end = 0
    for name, shape in sorted(_layer_shapes(config).items(), key=lambda item: len(item[1]), reverse=True):
        if not name.endswith(("k_proj.weight", "v_proj.weight", "up_proj.weight")):  # these touch the one before
            end = -(-end // grain) * grain
        places[name] = (end, shape)
        end += prod(shape)
    return places, -(-end // grain) * grain


def step_bytes(config: ModelConfig, tokens: int, context: int, itemsize: int) -> int:
    """What torch allocates at most while it computes a step of so many tokens, all of one sequence.

    Norms, rotation and scores pass through fp32; scores are counted whole, thrice (as they are, masked, after the
    softmax), as torch's plain way needs them where a device has no fused one for a mask with grouped heads.
    """
    rows = 6 * config.hidden_size * 4 + 6 * config.q_size * 4 + 5 * config.intermediate_size * itemsize
    scores = tokens * context * (config.num_attention_heads * 3 * 4 + itemsize)
    gathered = 2 * context * config.q_size * (4 + itemsize)  # keys and values of scattered pages, a head each
    logits = min(tokens, MAX_LOGIT_ROWS) * config.vocab_size * (4 + itemsize)
    return tokens * rows + scores + gathered + logits


@dataclass(frozen=True)
class _Split:
    """Everything that is the same at each limit."""

    config: ModelConfig
    itemsize: int
    device: str
    process_bytes: int
    max_context: int | None

    def best(self, limit: int) -> DevicePlan | None:
        """All layers on the device, with at least half the context that streaming would leave them; else streamed."""
        per_token = kv_bytes_per_token(self.config, self.itemsize)
        shared = max(0, int(KV_SHARE * self._left(limit) / per_token))
        whole = shared // MIN_CONTEXT * MIN_CONTEXT
        return (
            self._plan(limit, shared // 2, streaming=False, on_host=False)
            or self._plan(limit, shared // 2, streaming=False, on_host=True)
            or self._plan(limit, whole, streaming=True, on_host=True)
        )

    def smallest(self) -> int:
        return least_limit(lambda limit: self.best(limit) is not None, base=self.process_bytes)

    def _plan(self, limit: int, shared: int, *, streaming: bool, on_host: bool) -> DevicePlan | None:
        """A plan with `shared` positions or more, the embedding on the host if asked; None when there is no room."""
        config, full = self.config, self.config.max_position_embeddings
        layers, layer, table = config.num_hidden_layers, self._layer_bytes, self._table_bytes
        on_host = on_host and not config.tie_word_embeddings
        outside = table * (1 if on_host or config.tie_word_embeddings else 2) + config.hidden_size * self.itemsize
        slots = 2 * layer if streaming else 0
        room = limit - self.process_bytes - outside - slots - (0 if streaming else layers * layer)
        context = self.max_context or min(full, max(MIN_CONTEXT, shared))
        tokens = self._step_tokens(limit, context)
        if self._context_bytes(context, tokens) > room:
            return None
        pinned = (room - self._context_bytes(context, tokens)) // layer if streaming else layers
        room -= pinned * layer if streaming else 0  # less than a layer is left: for longer pieces and texts
        if not streaming:
            context = self._longest(context, tokens, room)
        while tokens < MAX_STEP_TOKENS and self._context_bytes(context, 2 * tokens) <= room:
            tokens *= 2
        context = self._longest(context, tokens, room)
        return DevicePlan(
            device=self.device,
            limit_bytes=limit,
            process_bytes=self.process_bytes,
            outside_bytes=outside,
            step_bytes=step_bytes(config, tokens, context, self.itemsize),
            step_tokens=tokens,
            kv_bytes=in_pages(context) * kv_bytes_per_token(config, self.itemsize),
            context=context,
            full_context=full,
            slot_bytes=slots,
            num_layers=layers,
            pinned_layers=evenly(pinned, layers) if pinned else (),
            embedding_on_host=on_host,
            pinned_bytes=pinned * layer,
            streamed_bytes=(layers - pinned) * layer,
            host_bytes=(layers - pinned) * layer + on_host * table,
        )

    def _longest(self, context: int, tokens: int, room: int) -> int:
        """The longest context with room: all of the model's, or a multiple of MIN_CONTEXT; `context` at least."""
        if self.max_context is not None:
            return context
        full = self.config.max_position_embeddings
        longer = (*range(MIN_CONTEXT, full, MIN_CONTEXT), full)
        return max([context, *(each for each in longer if self._context_bytes(each, tokens) <= room)])

    def _context_bytes(self, context: int, tokens: int) -> int:
        """What grows with the context: keys and values, and activations of a step at its end."""
        kv = in_pages(context) * kv_bytes_per_token(self.config, self.itemsize)
        return kv + step_bytes(self.config, tokens, context, self.itemsize)

    @property
    def _layer_bytes(self) -> int:
        return layer_places(self.config, self.itemsize)[1] * self.itemsize

    @property
    def _table_bytes(self) -> int:
        """Of the embedding, and of the head."""
        return self.config.vocab_size * self.config.hidden_size * self.itemsize

    def _left(self, limit: int) -> int:
        """What there is to share out, beside the parts that are always there."""
        return limit - self.process_bytes - self._table_bytes - 2 * self._layer_bytes

    def _step_tokens(self, limit: int, context: int) -> int:
        tokens, most = MAX_STEP_TOKENS, STEP_SHARE * self._left(limit)
        while tokens > MIN_STEP_TOKENS and step_bytes(self.config, tokens, context, self.itemsize) > most:
            tokens //= 2
        return tokens


def _layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    prefix = "model.layers.0."
    shapes = expected_tensors(config.model_copy(update={"num_hidden_layers": 1})).items()
    return {name.removeprefix(prefix): shape for name, shape in shapes if name.startswith(prefix)}
