"""What blocks compute again in the backward pass; over several processes see tests/parity/test_parallel.py."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aquila.model.transformer import causal_attention
from aquila.train.activation_checkpointing import KEPT, PRODUCTS, checkpoint_block
from parts import tiny_model


class Calls(TorchDispatchMode):
    """Counts products and attentions, of any kind."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.attentions = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += func in PRODUCTS
        self.attentions += func in KEPT
        return func(*args, **(kwargs or {}))


def test_what_is_computed_again() -> None:
    """A block has seven products and one attention; selective keeps the attention and every other product."""
    again, names, gradients = {}, [], []
    for mode in ("none", "selective", "full"):
        model = tiny_model().requires_grad_(True)
        block = model.model.layers[0]
        checkpoint_block(block, mode)
        names.append(list(model.state_dict()))
        x = torch.ones(2, 64, 32).cumsum(1).requires_grad_(True)
        rotation = model.model.rope.tables(torch.arange(64).expand(2, 64), 64)
        with Calls() as calls:
            block(x, rotation, causal_attention).sum().backward()
        again[mode] = (calls.products, calls.attentions)
        gradients.append(x.grad)
    products, attentions = again["none"]
    assert again["full"] == (products + 7, attentions + 1)
    assert again["selective"] == (products + 3, attentions)
    assert names[0] == names[1] == names[2]
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])
