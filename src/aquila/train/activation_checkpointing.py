"""Keeps less of the forward pass and computes it again in the backward pass.

Source: Chen et al. 2016, arXiv:1604.06174; selective: Korthikanti et al. 2022, arXiv:2205.05198, section 5.
The forward method of a block is replaced on the block itself: no wrapper, so no parameter changes its name.
"""

from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import aquila.model.linear  # noqa: F401  defines one of the products

aten, collectives = torch.ops.aten, torch.ops._c10d_functional

# Dear to compute or to send, small to keep.
KEPT = {
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    collectives.reduce_scatter_tensor.default,
    collectives.all_to_all_single.default,
}
PRODUCTS = {aten.mm.default, aten.addmm.default, torch.ops.aquila.onednn_product.default}


def checkpoint_block(block: nn.Module, mode: Literal["none", "selective", "full"]) -> None:
    """`full` keeps only the input of `block`; `selective` also attention, what others sent, and every other product."""
    if mode == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        options["context_fn"] = _selective_contexts
    block.forward = partial(checkpoint, block.forward, **options)


def _selective_contexts() -> Any:
    return create_selective_checkpoint_contexts(_EveryOtherProduct())


class _EveryOtherProduct:
    """The policy of one pass through one block. It counts products, in both passes alike."""

    def __init__(self) -> None:
        self.products = {False: 0, True: 0}

    def __call__(self, context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        kept = op in KEPT
        if op in PRODUCTS:
            self.products[context.is_recompute] += 1
            kept = self.products[context.is_recompute] % 2 == 1
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
