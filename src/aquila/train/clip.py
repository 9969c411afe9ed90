"""The norm of all gradients of the model, over every device, and how gradients are held to it.

Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from aquila.train.shards import local


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scales the gradients down to `max_norm` where they exceed it; 0 only measures.

    Returns:
        Their norm before that: an fp32 scalar on the device, the same bits on every process. Nothing waits for it.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = total_norm(gradients)
    if max_norm > 0:
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # a norm that is no number makes the gradients so: a bad step
        for gradient in gradients:
            piece = local(gradient)
            piece.mul_(scale.to(piece.device, piece.dtype))
    return norm


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Euclidean norm over all elements of all gradients, each counted once however many devices hold it."""
    by_copies: dict[int, list[Tensor]] = {}
    for gradient in gradients:
        by_copies.setdefault(_copies(gradient), []).append(local(gradient))
    if not by_copies:
        return torch.zeros(())
    total = torch.stack([_sum_of_squares(pieces) / copies for copies, pieces in by_copies.items()]).sum()
    if any(isinstance(gradient, DTensor) for gradient in gradients):
        dist.all_reduce(total)
    return total.sqrt()


def _sum_of_squares(pieces: list[Tensor]) -> Tensor:
    # row by row: one sum over a whole matrix in fp32 on a CPU is off in the fifth digit, and differently in each cut
    rows = [torch.linalg.vector_norm(piece, dim=-1, dtype=torch.float32).flatten() for piece in pieces]
    return torch.cat(rows).square().sum()


def _copies(gradient: Tensor) -> int:
    """Devices of the run that hold the same piece."""
    if not isinstance(gradient, DTensor):
        return dist.get_world_size() if dist.is_initialized() else 1
    copies = dist.get_world_size()
    for size, placement in zip(gradient.device_mesh.shape, gradient.placements, strict=True):
        assert not placement.is_partial(), "FSDP has summed the gradients"
        if not placement.is_replicate():
            copies //= size
    return copies
