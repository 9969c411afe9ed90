"""Linear layers whose frozen weight stays quantised in memory and is widened for each product: the base under QLoRA.

Source: Dettmers et al. 2023, arXiv:2305.14314, section 3; the formats are those of kernels/formats.py, held as the rows
of their GGUF type, uint8 `[rows, blocks * block_bytes]`: they are moved and cut by rows, on any device.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from aquila.config import suggest
from aquila.errors import ConfigError
from aquila.kernels.formats import FORMATS
from aquila.model.linear import Linear
from aquila.model.transformer import Transformer

BASE_FORMATS = tuple(name for name, item in FORMATS.items() if item.block_bytes)


class QuantisedWeight(nn.Module):
    """A matrix `[rows, columns]` in one of BASE_FORMATS. Not a parameter, and not in state dicts: it never changes."""

    codes: Tensor  # uint8 [rows, blocks * block_bytes]

    def __init__(self, format_name: str, rows: int, columns: int, device: torch.device | str):
        super().__init__()
        self.format = format_name
        self.columns = columns
        size = (rows, FORMATS[format_name].row_bytes(columns))
        self.register_buffer("codes", torch.empty(size, dtype=torch.uint8, device=device), persistent=False)

    def dequantise(self, dtype: torch.dtype) -> Float[Tensor, "rows columns"]:
        """The values in fp32, where code times scale is exact to its rounding, then in `dtype`."""
        layout = FORMATS[self.format]
        blocks = self.codes.unflatten(-1, (-1, layout.block_bytes))  # [rows, blocks, block_bytes]
        scales = blocks[..., :2].contiguous().view(torch.float16).float()  # [rows, blocks, 1]
        if self.format == "w8":
            values = blocks[..., 2:].view(torch.int8).float() * scales
        else:
            pairs = blocks[..., -16:]  # columns j and 16 + j in a byte
            values = torch.cat((pairs & 15, pairs >> 4), dim=-1).float()  # [rows, blocks, 32]
            if self.format == "w4":
                values = (values - 8) * scales
            else:
                values = values * scales + blocks[..., 2:4].contiguous().view(torch.float16).float()
        return values.flatten(-2)[:, : self.columns].to(dtype)

    def product(self, x: Float[Tensor, "... in"], bias: Float[Tensor, " out"] | None) -> Float[Tensor, "... out"]:
        """`x @ weight.T + bias`. The widened weight is not kept for the backward pass, which widens it again."""
        out: Tensor = _Product.apply(x, self)
        return out if bias is None else out + bias


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: QuantisedWeight) -> Tensor:
        ctx.weight, ctx.dtype = weight, x.dtype
        return F.linear(x, weight.dequantise(x.dtype))

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return (gradient @ ctx.weight.dequantise(gradient.dtype)).to(ctx.dtype), None


class QuantisedLinear(Linear):
    """A linear layer over a `QuantisedWeight`; it has no `weight`, and its bias is as it was."""

    def __init__(self, layer: Linear, format_name: str):
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.register_parameter("weight", None)
        self.bias = layer.bias
        self.quantised = QuantisedWeight(format_name, layer.out_features, layer.in_features, layer.weight.device)

    def forward(self, input: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        return self.quantised.product(input, self.bias)


def quantise_base(model: Transformer, format_name: str) -> None:
    """Makes every matrix of the blocks a `QuantisedLinear`, whose codes are yet to be filled. The rest is frozen.

    Embedding, head, norms and biases keep their dtype. Call it before `add_lora`, on the meta device so that the plain
    weights are never allocated; `checkpoint.quantised_base.fill_quantised` reads the codes.

    Raises:
        ConfigError: no such format.
    """
    if format_name not in BASE_FORMATS:
        known = ", ".join(BASE_FORMATS)
        raise ConfigError(f"lora.quantize: {format_name!r} is not one of {known}{suggest(format_name, BASE_FORMATS)}")
    for name, layer in list(model.model.layers.named_modules(prefix="model.layers")):
        if type(layer) is Linear:
            model.set_submodule(name, QuantisedLinear(layer, format_name))
    model.requires_grad_(False)


def quantised_weights(model: nn.Module) -> Iterator[tuple[str, QuantisedWeight]]:
    """Every quantised matrix by the name that its weight has in a checkpoint."""
    for name, module in model.named_modules():
        if isinstance(module, QuantisedWeight):
            yield f"{name.removesuffix('.quantised')}.weight", module
