"""Runs steps on a torch model: accelerators, rollouts on the module in training, and the reference on a CPU.

All tokens of a step form one row `[1, tokens]`, whatever sequences they belong to: every matrix is read once a step.
Only attention looks at sequences. Keys and values live in one pool a layer, `[slots, kv_heads, head_dim]`, where slot =
page * page_size + offset.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from aquila.checkpoint.adapter import Adapter
from aquila.checkpoint.open import Checkpoint
from aquila.checkpoint.torch_model import TORCH_DTYPES, load_model
from aquila.config import format_size
from aquila.errors import ConfigError, GenerationError
from aquila.generate.device_plan import DRIVER_BYTES, DevicePlan, plan_device
from aquila.generate.layer_stream import load_limited
from aquila.generate.lookup import ROW_COST
from aquila.generate.memory_plan import PAGE_SIZE
from aquila.generate.runner import SequenceStep
from aquila.machine import Memory, read_memory
from aquila.model.count import kv_bytes_per_token
from aquila.model.linear import Linear
from aquila.model.transformer import Transformer


@dataclass(frozen=True)
class Span:
    """Where one sequence stands in the step's row, and where its keys and values lie."""

    first: int  # row of its first token
    count: int
    context: int  # positions it attends to: start + count
    slots: slice | Tensor  # of all its positions; a slice when its pages are neighbours, which saves a copy
    mask: Tensor | None  # [count, context], added to the scores; None when nothing has to be hidden


class TorchRunner:
    """A `Runner` over a `Transformer` on its device and in its dtype.

    Args:
        model: weights; used as they are at each step, so a module in training can be sampled from.
        max_context: positions a sequence may have; the model's own limit when not given.
        kv_bytes: memory for keys and values; on a CPU the system hands it out as it is touched.
    """

    plan: DevicePlan | None = None  # under a memory limit
    draft_tokens = 0  # the bits of a logit depend on how many rows a step has, so guessing has to be asked for
    row_cost = ROW_COST

    def __init__(self, model: Transformer, *, max_context: int | None = None, kv_bytes: int = 1 << 30):
        config = model.config
        self.model = model
        self._num_adapters = 0
        self._adapted: list[tuple[int, Tensor]] = []  # of the step in progress: (adapter, rows [tokens])
        self.max_context = max_context or config.max_position_embeddings
        self.page_size = PAGE_SIZE
        self.vocab_size = config.vocab_size
        norm = model.model.norm.weight  # always on the device, whatever a memory limit put elsewhere
        self.device, self.dtype = norm.device, norm.dtype
        per_page = PAGE_SIZE * kv_bytes_per_token(config, norm.element_size())
        self.num_pages = max(kv_bytes // per_page, -(-self.max_context // PAGE_SIZE))
        shape = (
            config.num_hidden_layers,
            self.num_pages * PAGE_SIZE,
            config.num_key_value_heads,
            config.head_dim,
        )
        try:
            self.keys, self.values = torch.empty((2, *shape), device=self.device, dtype=self.dtype)
        except RuntimeError:  # torch's OutOfMemoryError is one
            raise GenerationError(
                f"no room for the keys and values of {self.max_context} positions "
                f"({format_size(self.num_pages * per_page)}); give a smaller max_context"
            ) from None

    def load_adapter(self, adapter: Adapter) -> int:
        """See `Runner.load_adapter`. The layers it adapts are wrapped; their weights stay the module's own."""
        number = self._num_adapters + 1
        read = {
            name: tuple(
                torch.from_numpy(half.numpy(np.dtype(np.float32))).to(self.device, self.dtype)
                for half in (item.down, item.up)
            )
            for name, item in adapter.matrices.items()
        }
        for name, (down, up) in read.items():
            layer = self.model.get_submodule(name)
            if not isinstance(layer, AdaptedLinear):
                assert type(layer) is Linear, f"{name} is no plain linear layer"
                layer = AdaptedLinear(layer, self._adapted)
                self.model.set_submodule(name, layer)
            layer.pairs[number] = (down, up, adapter.matrices[name].scale)
        self._num_adapters = number
        return number

    @torch.inference_mode()
    def step(self, batch: Sequence[SequenceStep]) -> Float[np.ndarray, "rows vocab"]:
        """See `Runner.step`."""
        tokens = [token_id for item in batch for token_id in item.token_ids]
        positions = [item.start + offset for item in batch for offset in range(len(item.token_ids))]
        input_ids = torch.tensor([tokens], device=self.device)  # [1, tokens]
        spans, written = self._spans(batch)
        self._adapted[:] = self._adapted_rows(batch)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]  # [slots, kv_heads, head_dim]
            keys[written] = key[0]
            values[written] = value[0]
            out = torch.empty_like(query)
            for span in spans:
                rows = slice(span.first, span.first + span.count)
                out[0, rows] = _attend_span(query[0, rows], keys[span.slots], values[span.slots], span.mask)
            return out

        try:
            hidden = self.model.hidden(
                input_ids,
                torch.tensor([positions], device=self.device),
                attend=attend,
                length=self.max_context,  # sets dynamic rotary scaling, so that caches stay valid
            )
        finally:
            self._adapted.clear()  # the module may be trained between steps
        wanted = torch.tensor(_wanted_rows(batch), device=self.device, dtype=torch.long)
        logits = self.model.lm_head(hidden[0, wanted])  # [rows, vocab]
        return logits.float().cpu().numpy()

    def _adapted_rows(self, batch: Sequence[SequenceStep]) -> list[tuple[int, Tensor]]:
        rows: dict[int, list[int]] = {}
        first = 0
        for item in batch:
            if item.adapter:
                rows.setdefault(item.adapter, []).extend(range(first, first + len(item.token_ids)))
            first += len(item.token_ids)
        return [(adapter, torch.tensor(found, device=self.device)) for adapter, found in rows.items()]

    def _spans(self, batch: Sequence[SequenceStep]) -> tuple[list[Span], slice | Int[Tensor, " tokens"]]:
        """Places of each sequence, and the slots that the step's tokens are written to."""
        spans, written, first = [], [], 0
        for item in batch:
            count = len(item.token_ids)
            context = item.start + count
            slots = self._slots(item.pages, context)
            span = Span(first, count, context, slots, self._mask(count, context))
            spans.append(span)
            if isinstance(slots, slice):
                written.append(torch.arange(slots.stop - count, slots.stop))
            else:
                written.append(slots[-count:].cpu())
            first += count
        only = spans[0]
        if len(spans) == 1 and isinstance(only.slots, slice):
            return spans, slice(only.slots.stop - only.count, only.slots.stop)
        return spans, torch.cat(written).to(self.device)

    def _slots(self, pages: Sequence[int], context: int) -> slice | Tensor:
        used = np.asarray(pages[: -(-context // PAGE_SIZE)])
        if (np.diff(used) == 1).all():
            first = int(used[0]) * PAGE_SIZE
            return slice(first, first + context)
        slots = (used[:, None] * PAGE_SIZE + np.arange(PAGE_SIZE)).ravel()[:context]
        return torch.from_numpy(slots).to(self.device)

    def _mask(self, count: int, context: int) -> Tensor | None:
        """Hides from each token what comes after it. One token sees everything there is."""
        if count == 1:
            return None
        hidden = torch.full((count, context), float("-inf"), device=self.device, dtype=self.dtype)
        return hidden.triu(context - count + 1)


class AdaptedLinear(Linear):
    """A linear layer that shares another's weight and adds what adapters add to it, each to rows of its own.

    Args:
        layer: whose weight and bias it takes.
        adapted: (adapter, rows) of the step in progress; the runner's own list.
    """

    def __init__(self, layer: Linear, adapted: list[tuple[int, Tensor]]):
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.adapted = adapted
        self.pairs: dict[int, tuple[Tensor, Tensor, float]] = {}  # adapter -> down, up, scale; not in the state dict

    def forward(self, input: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        out = super().forward(input)
        for adapter, rows in self.adapted:
            if adapter in self.pairs:
                down, up, scale = self.pairs[adapter]
                out[0, rows] += scale * F.linear(F.linear(input[0, rows], down), up)
        return out


def _attend_span(
    query: Float[Tensor, "count heads head_dim"],
    keys: Float[Tensor, "context kv_heads head_dim"],
    values: Float[Tensor, "context kv_heads head_dim"],
    mask: Tensor | None,
) -> Float[Tensor, "count heads head_dim"]:
    count, heads, head_dim = query.shape
    kv_heads = keys.shape[1]
    keys, values = (
        keys.transpose(0, 1)[None],
        values.transpose(0, 1)[None],
    )  # [1, kv_heads, context, head_dim]
    if count == 1:
        # the heads of one group share keys: as rows of one query they read them once
        grouped = query.view(1, kv_heads, heads // kv_heads, head_dim)
        return F.scaled_dot_product_attention(grouped, keys, values).reshape(1, heads, head_dim)
    out = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None], keys, values, attn_mask=mask, enable_gqa=heads != kv_heads
    )
    return out[0].transpose(0, 1)


def _wanted_rows(batch: Sequence[SequenceStep]) -> list[int]:
    rows, first = [], 0
    for item in batch:
        end = first + len(item.token_ids)
        rows += range(end - item.num_logits, end)
        first = end
    return rows


def make_runner(
    checkpoint: Checkpoint,
    *,
    device: str | None,
    dtype: str | None,
    max_context: int | None,
    kv_bytes: int,
    memory_limit: int | None = None,
) -> TorchRunner:
    """Loads the weights of a checkpoint where they will run. See `aquila.load` for the arguments."""
    chosen = choose_device(device)
    dtype = dtype or ("fp32" if chosen.type == "cpu" else "bf16")
    if memory_limit is not None:
        return make_limited_runner(
            checkpoint, device=chosen, dtype=TORCH_DTYPES[dtype], memory_limit=memory_limit, max_context=max_context
        )
    if chosen.type == "cpu":
        num_elements = sum(tensor.num_elements for tensor in checkpoint.tensors.values())
        require_memory(num_elements * TORCH_DTYPES[dtype].itemsize, dtype, read_memory())
    model = load_model(checkpoint, device=chosen, dtype=TORCH_DTYPES[dtype])
    return TorchRunner(model, max_context=max_context, kv_bytes=kv_bytes)


def make_limited_runner(
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    dtype: torch.dtype,
    memory_limit: int,
    max_context: int | None = None,
) -> TorchRunner:
    """Runs a checkpoint within `memory_limit` bytes of a device's memory; what does not fit waits in the host's.

    On a CPU, which is its own host, the limit bounds what is computed with, not the process.

    Raises:
        ConfigError: the limit cannot work on this device.
        GenerationError: other programs hold too much of the device's or of the host's memory.
    """
    plan = plan_device(
        checkpoint.config,
        itemsize=dtype.itemsize,
        device=str(device),
        limit_bytes=memory_limit,
        process_bytes=_held_bytes(device, memory_limit),
        max_context=max_context,
    )
    memory = read_memory()
    if memory is not None and plan.host_bytes > memory.available_bytes:
        raise GenerationError(
            f"memory_limit: {format_size(plan.host_bytes)} of weights would lie in the host's memory, where "
            f"{format_size(memory.available_bytes)} is free; give a larger limit, or a smaller model"
        )
    model = load_limited(checkpoint, plan, device=device, dtype=dtype)
    runner = TorchRunner(model, max_context=plan.context, kv_bytes=plan.kv_bytes)
    runner.plan = plan
    return runner


def _held_bytes(device: torch.device, limit: int) -> int:
    """What the driver and torch hold on an accelerator already. Refuses a limit that it has not free."""
    if device.type == "cpu":
        return 0
    try:
        held = torch.accelerator.memory_reserved(device)
        free, total = torch.accelerator.get_memory_info(device)
    except (RuntimeError, NotImplementedError, AttributeError) as error:  # some backends, and older ones, have no count
        raise ConfigError(
            f"memory_limit: torch does not tell how much memory {device} has ({str(error).splitlines()[0]}); leave it "
            "out, or use device cpu"
        ) from None
    if limit > total:
        raise ConfigError(
            f"memory_limit: {format_size(limit)} is more than the {format_size(total)} of {device}; leave it out for "
            "no limit"
        )
    if limit > free + held + DRIVER_BYTES:
        raise GenerationError(
            f"memory_limit: {format_size(limit)} is more than what is free on {device}, {format_size(free)}; give "
            "less, or end the programs that hold the rest"
        )
    return held + DRIVER_BYTES


def require_memory(num_bytes: int, dtype: str, memory: Memory | None) -> None:
    """`GenerationError` before the system kills a process whose weights cannot fit."""
    if memory is not None and num_bytes > memory.available_bytes:
        advice = "dtype bf16 takes half of it" if dtype == "fp32" else "take a smaller model"
        raise GenerationError(
            f"the weights take {format_size(num_bytes)} in {dtype}, and {format_size(memory.available_bytes)} of "
            f"memory is free; {advice}, and `aquila doctor` shows what fits"
        )


def choose_device(name: str | None) -> torch.device:
    """The device asked for, or the accelerator when there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name is None:
        return accelerator or torch.device("cpu")
    present = ["cpu"]
    if accelerator is not None:
        present += [accelerator.type, *(f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count()))]
    if name not in present:
        raise ConfigError(f"device: {name!r} is not here; this machine has {', '.join(present)}")
    return torch.device(name)
