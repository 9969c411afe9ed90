"""Layers of a torch model that lie in the host's memory, and are on the device while they are computed.

Two slots on the device take turns: while the layer in one of them is computed, the next one is copied into the other,
on a stream of its own. The order is cyclic and runs on across steps: the first layer of the next step is copied while
what follows the last one is computed. On a CPU, where nothing can overlap, the same is done copy by copy.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aquila.checkpoint.open import Checkpoint
from aquila.checkpoint.torch_model import fill_tensor, load_model, set_weight
from aquila.config import format_size
from aquila.errors import ConfigError, GenerationError
from aquila.generate.device_plan import DevicePlan, layer_places
from aquila.model.transformer import Embedding, Transformer

_BLOCK_BYTES = 64 << 20  # of host memory; pinned memory is handed out in powers of two


class LayerStream:
    """Keeps some layers of `model` in host memory and sees that each is on the device when it is called.

    Args:
        model: on its device but for those layers, whose parameters are on the meta device.
        layers: which layers.
        device: of the model.
        dtype: of its weights.

    Raises:
        ConfigError: the device cannot copy and compute at once.
        GenerationError: the host has no room for the layers.
    """

    def __init__(self, model: Transformer, layers: Sequence[int], *, device: torch.device, dtype: torch.dtype):
        self._layers = tuple(layers)
        self._places, self._layer_elements = layer_places(model.config, dtype.itemsize)
        self._host = _host_blocks(len(layers) * self._layer_elements, dtype, pinned=device.type != "cpu")
        self._slots = torch.zeros((2, self._layer_elements), dtype=dtype, device=device)
        self._holds: list[int | None] = [None, None]  # of each slot: which of `layers`, counted from 0
        self._last = 1  # slot that was used last
        self._side = _Side(device) if device.type != "cpu" else None
        self._parameters: list[list[nn.Parameter]] = []
        for turn, layer in enumerate(self._layers):
            block = model.model.layers[layer]
            for name, (start, shape) in self._places.items():
                set_weight(block, name, self._view(0, start, shape))
            named = dict(block.named_parameters())
            self._parameters.append([named[name] for name in self._places])
            block.register_forward_pre_hook(lambda module, inputs, turn=turn: self._begin(turn))
            block.register_forward_hook(lambda module, inputs, output: self._end())

    def load(self, checkpoint: Checkpoint) -> None:
        """Reads the layers into host memory."""
        scratch = torch.zeros(self._layer_elements, dtype=self._slots.dtype)
        for turn, layer in enumerate(self._layers):
            for name, (start, shape) in self._places.items():
                fill_tensor(_cut(scratch, start, shape), checkpoint.tensors[f"model.layers.{layer}.{name}"])
            for piece, start in self._pieces(turn):
                piece.copy_(scratch[start : start + len(piece)])
        self._holds = [None, None]

    def _begin(self, turn: int) -> None:
        """Before a layer is computed: waits for its copy, and begins that of the next one."""
        if turn not in self._holds:
            self._fetch(turn, 1 - self._last)
        slot = self._last = self._holds.index(turn)
        if self._side is not None:
            self._side.wait_until_filled(slot)
        for parameter, (start, shape) in zip(self._parameters[turn], self._places.values(), strict=True):
            parameter.data = self._view(slot, start, shape)
        following = (turn + 1) % len(self._layers)
        if following not in self._holds:
            self._fetch(following, 1 - slot)

    def _end(self) -> None:
        if self._side is not None:
            self._side.mark_used(self._last)

    def _fetch(self, turn: int, slot: int) -> None:
        self._holds[slot] = None  # whatever breaks this off, half a copy is never taken for a layer
        target = self._slots[slot]
        if self._side is None:
            for piece, start in self._pieces(turn):
                target[start : start + len(piece)].copy_(piece)
        else:
            with self._side.filling(slot):
                for piece, start in self._pieces(turn):
                    target[start : start + len(piece)].copy_(piece, non_blocking=True)
        self._holds[slot] = turn

    def _pieces(self, turn: int) -> Iterator[tuple[Tensor, int]]:
        """Where a layer lies in host memory: pieces, and the element of the slot where each begins."""
        size = len(self._host[0])
        start, end = turn * self._layer_elements, (turn + 1) * self._layer_elements
        place = start
        while place < end:
            block, inside = divmod(place, size)
            count = min(end - place, size - inside)
            yield self._host[block][inside : inside + count], place - start
            place += count

    def _view(self, slot: int, start: int, shape: tuple[int, ...]) -> Tensor:
        return _cut(self._slots[slot], start, shape)


class _Side:
    """The stream that copies, beside the one that computes, and what each waits for from the other."""

    def __init__(self, device: torch.device):
        self._device = device
        try:
            self._stream = torch.Stream(device)
            self._filled = [torch.Event(device), torch.Event(device)]
            self._used = [torch.Event(device), torch.Event(device)]
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"memory_limit: {device} cannot copy and compute at once ({reason}); leave the limit out, or use "
                "device cpu"
            ) from None
        for slot in range(2):
            self.mark_used(slot)  # after the slots were allocated

    @contextmanager
    def filling(self, slot: int) -> Generator[None]:
        """Copies in this block wait until the slot is no longer computed with."""
        self._stream.wait_event(self._used[slot])
        with self._stream:
            yield
            self._filled[slot].record(self._stream)

    def wait_until_filled(self, slot: int) -> None:
        torch.accelerator.current_stream(self._device).wait_event(self._filled[slot])

    def mark_used(self, slot: int) -> None:
        self._used[slot].record(torch.accelerator.current_stream(self._device))


class HostEmbedding(Embedding):
    """An embedding whose rows are looked up in the host's memory, and of which only those go to the device."""

    def __init__(self, weight: Float[Tensor, "vocab hidden"], device: torch.device):
        super().__init__(weight.shape[0], weight.shape[1], device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.device = device

    def forward(self, input: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq hidden"]:
        return super().forward(input.cpu()).to(self.device)


def load_limited(checkpoint: Checkpoint, plan: DevicePlan, *, device: torch.device, dtype: torch.dtype) -> Transformer:
    """The model of a checkpoint as the plan spreads it over device and host. Calls of its layers stream them."""
    streamed = [layer for layer in range(plan.num_layers) if layer not in plan.pinned_layers]
    prefixes = tuple(f"model.layers.{layer}." for layer in streamed)
    embedding = "model.embed_tokens.weight"

    def elsewhere(name: str) -> bool:
        return name.startswith(prefixes) or (plan.embedding_on_host and name == embedding)

    model = load_model(checkpoint, device=device, dtype=dtype, skip=elsewhere)
    if plan.embedding_on_host:
        lazy = checkpoint.tensors[embedding]
        table = torch.empty(lazy.shape, dtype=dtype)
        fill_tensor(table, lazy)
        model.model.embed_tokens = HostEmbedding(table, device)
    if streamed:
        LayerStream(model, streamed, device=device, dtype=dtype).load(checkpoint)  # kept by the hooks of its layers
    return model


def _host_blocks(num_elements: int, dtype: torch.dtype, *, pinned: bool) -> list[Tensor]:
    """Host memory in blocks of equal length, but for the last one."""
    size = _BLOCK_BYTES // dtype.itemsize
    try:
        return [
            torch.empty(min(size, num_elements - start), dtype=dtype, pin_memory=pinned)
            for start in range(0, num_elements, size)
        ]
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise GenerationError(
            f"no room in the host's memory for {format_size(num_elements * dtype.itemsize)} of layers that are "
            f"streamed to the device ({reason}); give a larger memory_limit, or a smaller model"
        ) from None


def _cut(flat: Tensor, start: int, shape: tuple[int, ...]) -> Tensor:
    return flat[start : start + prod(shape)].view(shape)
