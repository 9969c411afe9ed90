"""Rotary position embedding, in both conventions and with the stretches of long-context models.

Source: Su et al. 2021, arXiv:2104.09864, eq. 34. Shapes: positions [batch, seq]; x [batch, seq, heads, head_dim].
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aquila.model.config import ModelConfig

Rotation = tuple[Tensor, Tensor]


def inverse_frequencies(config: ModelConfig, length: int) -> Float[Tensor, " pairs"]:
    """Radians per position of each pair. `length` (tokens) matters to dynamic scaling, whose base grows with it."""
    pairs = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    scaling = config.rope_scaling
    theta = config.rope_theta
    if scaling is not None and scaling.type == "dynamic" and length > config.max_position_embeddings:
        # NTK-aware: transformers' _compute_dynamic_ntk_parameters
        stretch = scaling.factor * length / config.max_position_embeddings - (scaling.factor - 1)
        theta = theta * stretch ** (config.head_dim / (config.head_dim - 2))
    frequencies = 1.0 / theta**pairs
    if scaling is None or scaling.type == "dynamic":
        return frequencies
    if scaling.type == "linear":
        return frequencies / scaling.factor
    # llama3: waves longer than the trained context are stretched, short ones kept, those between blended
    wavelength = 2 * math.pi / frequencies
    turns = scaling.original_max_position_embeddings / wavelength
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = blend.clamp(0, 1)
    return frequencies / scaling.factor * (1 - blend) + frequencies * blend


class RotaryEmbedding:
    """Rotates query and key pairs by position. Holds no parameters: the table is made anew for each step."""

    def __init__(self, config: ModelConfig):
        self.config = config

    def tables(self, positions: Int[Tensor, "batch seq"], length: int) -> Rotation:
        """Cosine and signed sine, each [batch, seq, 1, head_dim], for `rotate`. fp32: bf16 loses far positions."""
        frequencies = inverse_frequencies(self.config, length).to(positions.device)
        angle = positions[..., None].float() * frequencies  # [batch, seq, head_dim / 2]
        cos, sin = angle.cos(), angle.sin()
        if self.config.rope_interleaved:
            cos = cos.repeat_interleave(2, dim=-1)
            sin = torch.stack((-sin, sin), dim=-1).flatten(-2)
        else:
            cos = torch.cat((cos, cos), dim=-1)
            sin = torch.cat((-sin, sin), dim=-1)
        return cos[:, :, None], sin[:, :, None]

    def rotate(
        self, x: Float[Tensor, "batch seq heads head_dim"], tables: Rotation
    ) -> Float[Tensor, "batch seq heads head_dim"]:
        """`(a, b) -> (a cos - b sin, b cos + a sin)` for each pair, in fp32, back in the dtype of x."""
        cos, sin = tables
        wide = x.float()
        if self.config.rope_interleaved:
            partner = wide.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        else:
            partner = wide.roll(self.config.head_dim // 2, dims=-1)
        return torch.addcmul(wide * cos, partner, sin).to(x.dtype)
