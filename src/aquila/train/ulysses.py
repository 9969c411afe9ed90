"""Context parallel attention: each device holds a piece of every sequence, and during attention some of the heads.

Source: Jacobs et al. 2023, arXiv:2309.14509, section 3.1. One all-to-all before attention turns pieces of sequences
with all heads into whole sequences with a part of the heads, one after it turns them back. What attention sees is what
a single device would show it, so document masks need no care.

Shapes: batch; piece = seq / cp; heads and kv_heads are those of this device (after tensor parallel).
"""

import math

import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single_autograd

from aquila.model.transformer import Attend
from aquila.train.ranks import Ranks


def ulysses(attend: Attend, ranks: Ranks) -> Attend:
    """`attend` over whole sequences, for queries, keys and values of which this device holds a piece."""
    return attend if ranks.cp_group is None else _Ulysses(attend, ranks.cp_group)


class _Ulysses:
    def __init__(self, attend: Attend, group: dist.ProcessGroup) -> None:
        self.attend, self.group = attend, group

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        cp = self.group.size()
        pieces = (query, share_heads(key, cp), share_heads(value, cp))
        whole = (gather_sequence(piece, self.group) for piece in pieces)
        return gather_heads(self.attend(layer, *whole), self.group)


def share_heads(
    x: Float[Tensor, "batch piece kv_heads head_dim"], cp: int
) -> Float[Tensor, "batch piece copies head_dim"]:
    """Repeats key or value heads until they can be dealt out evenly. Grouped queries find the same head as before."""
    kv_heads = x.shape[2]
    return x.repeat_interleave(math.lcm(kv_heads, cp) // kv_heads, dim=2)


def gather_sequence(
    x: Float[Tensor, "batch piece heads head_dim"], group: dist.ProcessGroup
) -> Float[Tensor, "batch seq share head_dim"]:
    """From a piece of the sequence with all heads to the whole sequence with heads / cp of them."""
    cp = group.size()
    batch, piece, heads, head_dim = x.shape
    send = x.view(batch, piece, cp, heads // cp, head_dim).permute(2, 1, 0, 3, 4)  # [cp, piece, batch, share, head_dim]
    received = all_to_all_single_autograd(send.contiguous().flatten(0, 1), None, None, group)
    return received.transpose(0, 1)


def gather_heads(
    x: Float[Tensor, "batch seq share head_dim"], group: dist.ProcessGroup
) -> Float[Tensor, "batch piece heads head_dim"]:
    """From the whole sequence with a part of the heads back to a piece of the sequence with all heads."""
    cp = group.size()
    batch, seq, share, head_dim = x.shape
    received = all_to_all_single_autograd(x.transpose(0, 1).contiguous(), None, None, group)
    received = received.view(cp, seq // cp, batch, share, head_dim)  # pieces of heads, in the order of ranks
    return received.permute(2, 1, 0, 3, 4).flatten(2, 3)
