"""The loss when every device of a tensor-parallel group has some rows of the head: no device sees all logits.

Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3 (the parallel cross entropy); chunks of tokens as in
`aquila.model.loss`. Per token the group exchanges three numbers: the largest logit, the sum of exponentials, the
logit of the label.

Shapes: tokens = batch x seq; share = vocab / tp.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Replicate

from aquila.model.loss import ACCELERATOR_CHUNK_BYTES, CHUNK_BYTES


def vocab_parallel_loss(
    hidden: Float[Tensor, "batch seq hidden"], head: nn.Module, labels: Int[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    """Sum of the losses of all tokens whose label is not negative; hidden states cut by sequence, the head by rows."""
    weight = head.weight
    assert isinstance(hidden, DTensor)
    assert isinstance(weight, DTensor)
    mesh = weight.device_mesh
    # each device's gradient of the states comes from its own rows of the head; their sum is the gradient
    states = hidden.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
    return _VocabParallelLoss.apply(states.flatten(0, 1), weight.to_local(), labels.flatten(), mesh.get_group())


class _VocabParallelLoss(torch.autograd.Function):
    """Computes gradients with the loss, while the logits of a chunk are there."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Float[Tensor, "tokens hidden"],
        weight: Float[Tensor, "share hidden"],
        labels: Int[Tensor, " tokens"],
        group: dist.ProcessGroup,
    ) -> Float[Tensor, ""]:
        total = states.new_zeros((), dtype=torch.float32)
        state_grad = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        chunk_bytes = CHUNK_BYTES.get(states.device.type, ACCELERATOR_CHUNK_BYTES)
        size = max(1, chunk_bytes // (4 * weight.shape[0]))
        for start in range(0, len(states), size):
            rows = slice(start, start + size)
            loss, logit_grad = _chunk(states[rows], weight, labels[rows], group)
            total += loss
            logit_grad = logit_grad.to(weight.dtype)
            if state_grad is not None:
                torch.mm(logit_grad, weight, out=state_grad[rows])
            if weight_grad is not None:
                weight_grad += logit_grad.T @ states[rows]
        ctx.save_for_backward(state_grad, weight_grad)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (scale,) = slopes
        state_grad, weight_grad = ctx.saved_tensors
        if state_grad is not None:
            state_grad = state_grad * scale.to(state_grad.dtype)
        if weight_grad is not None:
            weight_grad = (weight_grad * scale).to(ctx.weight_dtype)
        return state_grad, weight_grad, None, None


def _chunk(
    states: Float[Tensor, "tokens hidden"],
    weight: Float[Tensor, "share hidden"],
    labels: Int[Tensor, " tokens"],
    group: dist.ProcessGroup,
) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens share"]]:
    """Loss of some tokens, the same on every device, and its gradient by this device's logits."""
    logits = (states @ weight.T).float()  # softmax in fp32: bf16 loses the tail
    largest = logits.amax(dim=-1)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    own = labels - group.rank() * weight.shape[0]  # the label among the rows of the head that lie here
    here = (own >= 0) & (own < weight.shape[0]) & (labels >= 0)
    own = own.where(here, 0)[:, None]
    label_logit = (logits.gather(1, own)[:, 0] - largest).where(here, 0.0)
    exponentials = logits.sub_(largest[:, None]).exp_()
    sums = torch.stack((exponentials.sum(dim=-1), label_logit))
    dist.all_reduce(sums, group=group)
    valid = labels >= 0
    loss = (sums[0].log() - sums[1]).where(valid, 0.0).sum()
    gradient = exponentials.div_(sums[0][:, None])
    gradient.scatter_add_(1, own, -here.to(gradient.dtype)[:, None])
    return loss, gradient.mul_(valid[:, None])
