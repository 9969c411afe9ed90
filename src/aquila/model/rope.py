"""Rotary position embedding, in both conventions and with the stretches of long-context models.

Source: Su et al. 2021, arXiv:2104.09864, eq. 34. Shapes: positions [batch, seq]; x [batch, seq, heads, head_dim].
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aquila.model.config import ModelConfig
from aquila.model.frequencies import inverse_frequencies

Rotation = tuple[Tensor, Tensor]


class RotaryEmbedding:
    """Rotates query and key pairs by position. Holds no parameters: the table is made anew for each step."""

    def __init__(self, config: ModelConfig):
        self.config = config

    def tables(self, positions: Int[Tensor, "batch seq"], length: int) -> Rotation:
        """Cosine and signed sine, each [batch, seq, 1, head_dim], for `rotate`. fp32: bf16 loses far positions."""
        frequencies = torch.from_numpy(inverse_frequencies(self.config, length)).to(positions.device)
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
