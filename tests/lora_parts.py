"""Adapters in a model in training as arrays, out of it and into it."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from aquila.model.lora import lora_layers

Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]


def lora_arrays(model: nn.Module) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A and B of each adapted layer by its name."""
    return {
        name: (layer.lora_A.detach().numpy().copy(), layer.lora_B.detach().numpy().copy())
        for name, layer in lora_layers(model).items()
    }


@torch.no_grad()
def set_lora(model: nn.Module, pairs: Pairs) -> None:
    """Fills A and B of the adapted layers, which are exactly those of `pairs`."""
    layers = lora_layers(model)
    assert layers.keys() == pairs.keys()
    for name, (down, up) in pairs.items():
        layers[name].lora_A.copy_(torch.from_numpy(down.astype(np.float32)))
        layers[name].lora_B.copy_(torch.from_numpy(up.astype(np.float32)))
