"""Low-rank adapters in training: some linear layers learn `scale * B (A x)` beside a weight that never changes.

Source: Hu et al. 2021, arXiv:2106.09685, eq. 3 and section 4.1 (A random, B zero, scale alpha / r). The base keeps its
names (`...q_proj.weight`), so any checkpoint of the model loads; new are `...q_proj.lora_A` [r, in] and
`...q_proj.lora_B` [out, r], in fp32. Adapter folders are read and written in `checkpoint/`.
"""

import math
import zlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from aquila.config import suggest
from aquila.errors import ConfigError
from aquila.model.linear import Linear
from aquila.model.lora_targets import TARGETS
from aquila.model.quantised import QuantisedLinear
from aquila.model.transformer import Transformer

_STEP_CONSTANTS = (-1640531527, -2048144777)  # 2^32 / golden ratio, and xxHash's second prime, as int32


class DropoutKey:
    """What the masks of a micro-batch depend on beside their layer. One object, shared by all adapted layers."""

    def __init__(self) -> None:
        self.rows: Tensor | None = None  # int32 [batch], a hash of (seed, step, sample)
        self.first_position = 0


class LoraLinear(Linear):
    """A linear layer that takes the parameters of another and adds a low-rank update to its product.

    Args:
        layer: whose weight (plain or quantised) and bias it takes over, as they are.
        r: rank.
        alpha: the update is scaled by alpha / r.
        dropout: share of the update's inputs that are left out while training.
        name: of the layer in its model; layers draw different masks.
        key: of the micro-batch in progress.
    """

    def __init__(self, layer: Linear, *, r: int, alpha: float, dropout: float, name: str, key: DropoutKey):
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.quantised = layer.quantised if isinstance(layer, QuantisedLinear) else None
        device = layer.weight.device if self.quantised is None else self.quantised.codes.device
        self.lora_A = nn.Parameter(torch.empty(r, layer.in_features, dtype=torch.float32, device=device))
        self.lora_B = nn.Parameter(torch.empty(layer.out_features, r, dtype=torch.float32, device=device))
        self.scale = alpha / r
        self.dropout = dropout
        self.key = key
        self.salt = zlib.crc32(name.encode()) & 0x7FFFFFFF

    def forward(self, input: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        out = super().forward(input) if self.quantised is None else self.quantised.product(input, self.bias)
        scale = self.scale
        if self.training and self.dropout:
            input, scale = self._dropped(input), scale / (1 - self.dropout)
        inner = F.linear(input, self.lora_A.to(input.dtype))  # [..., r]
        return out + scale * F.linear(inner, self.lora_B.to(input.dtype))

    def _dropped(self, input: Tensor) -> Tensor:
        """Kept for the backward pass: the result, and a byte an element; nothing else of that size."""
        rows = self.key.rows
        assert rows is not None, "set_dropout_key comes before every micro-batch"
        return input.masked_fill(~keep_mask(rows + self.salt, self.key.first_position, input.shape, self.dropout), 0)


def add_lora(
    model: Transformer, *, r: int, alpha: float, dropout: float = 0.0, targets: Sequence[str] = ("q_proj", "v_proj")
) -> list[str]:
    """Adapts the layers of every block whose names are in `targets`, freezes all else, and returns their names.

    The new parameters are as allocated: `init_lora` fills them, after a model on the meta device has its memory.

    Raises:
        ConfigError: a target that blocks do not have, or a model that is adapted already.
    """
    unknown = [name for name in targets if name not in TARGETS]
    if unknown or not targets:
        hint = suggest(unknown[0], TARGETS) if unknown else f"; name some of {', '.join(TARGETS)}"
        raise ConfigError(f"lora.targets: {', '.join(map(repr, unknown)) or 'the list'} names no layer{hint}")
    if r < 1 or not 0 <= dropout < 1 or not math.isfinite(alpha):
        raise ConfigError(
            f"lora: r {r}, alpha {alpha} and dropout {dropout} do not make an adapter; r is at least 1, dropout below 1"
        )
    if lora_layers(model):
        raise ConfigError("lora: the model has an adapter already; merge it first, or begin from the base model")
    model.requires_grad_(False)
    key = DropoutKey()
    for name, layer in list(model.model.layers.named_modules(prefix="model.layers")):
        if name.rpartition(".")[2] in targets:
            assert isinstance(layer, Linear), f"{name} is no linear layer"
            adapted = LoraLinear(layer, r=r, alpha=alpha, dropout=dropout, name=name, key=key)
            model.set_submodule(name, adapted.train(layer.training))
    return list(lora_layers(model))


@torch.no_grad()
def init_lora(model: Transformer, seed: int) -> None:
    """A uniform within 1 / sqrt(in) (Kaiming with a = sqrt 5, as PEFT), B zero: the model begins as its base.

    Each layer draws from (seed, its name), so the values do not depend on devices or on how they are sharded.
    """
    for name, layer in lora_layers(model).items():
        bound = 1 / math.sqrt(layer.in_features)
        generator = torch.Generator().manual_seed(_hash(seed, zlib.crc32(name.encode())))
        first = torch.empty(layer.lora_A.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
        _assign(layer.lora_A, first)
        layer.lora_B.zero_()


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLinear)}


def lora_names(model: nn.Module) -> list[str]:
    """The names of the parameters that adapters add to those of the base."""
    return [f"{name}.{half}" for name in lora_layers(model) for half in ("lora_A", "lora_B")]


def set_dropout_key(
    model: nn.Module, *, seed: int, step: int, sample_ids: Sequence[int], first_position: int = 0
) -> None:
    """Says which samples the next micro-batch holds; nothing to do without adapters or without dropout.

    A mask is a function of (seed, step, sample, layer, place, feature) and of nothing else: not of the order of
    micro-batches, the ranks, the device or a resume, and it is the same when activations are computed again.

    Args:
        model: with adapters.
        seed: of the run.
        step: optimizer step.
        sample_ids: place of each row in the step's global batch.
        first_position: place in its row of the first token, where rows are shared out among ranks.
    """
    layer = next(iter(lora_layers(model).values()), None)
    if layer is None or not layer.dropout:
        return
    hashes = [_hash(seed, step, sample) & 0x7FFFFFFF for sample in sample_ids]
    layer.key.rows = torch.tensor(hashes, dtype=torch.int32, device=layer.lora_A.device)
    layer.key.first_position = first_position


def keep_mask(
    rows: Int[Tensor, " batch"], first_position: int, shape: Sequence[int], rate: float
) -> Bool[Tensor, "batch seq in"]:
    """True where an input is kept: a hash of its row, place and feature, int32 with wrap-around.

    Arithmetic instead of a generator: it is cut anywhere, compiles, and has the same bits on every device.
    """
    _, seq, features = shape  # [batch, seq, in]
    place = torch.arange(first_position, first_position + seq, dtype=torch.int32, device=rows.device)
    feature = torch.arange(features, dtype=torch.int32, device=rows.device)
    token = _mix(rows[:, None] + place * _STEP_CONSTANTS[0])[..., None]  # [batch, seq, 1]
    mixed = _mix(token + feature * _STEP_CONSTANTS[1])  # [batch, seq, in]
    return (mixed & 0x7FFFFFFF) >= int(rate * (1 << 31))


def _mix(x: Tensor) -> Tensor:
    """Spreads every bit over all: the finaliser of MurmurHash3, with shifts that keep the sign."""
    x = (x ^ (x >> 16)) * -2048144789  # 0x85ebca6b
    x = (x ^ (x >> 13)) * -1028477387  # 0xc2b2ae35
    return x ^ (x >> 16)


def _hash(*numbers: int) -> int:
    """63 bits of some whole numbers. Steele et al. 2014, splitmix64, chained."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % (1 << 64)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % (1 << 64)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % (1 << 64)
        state ^= state >> 31
    return state >> 1


def _assign(parameter: Tensor, values: Tensor) -> None:
    if isinstance(parameter, DTensor):
        values = distribute_tensor(values.to(parameter.device), parameter.device_mesh, parameter.placements)
    parameter.copy_(values)
