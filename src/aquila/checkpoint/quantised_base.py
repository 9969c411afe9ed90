"""From a checkpoint to the quantised base of a model in training (QLoRA).

A matrix that the file holds in the wanted format already is taken over bit for bit; any other is rounded to it, some
rows at a time. Neither the plain nor the widened weights are ever in memory as a whole.
"""

from collections.abc import Mapping

import numpy as np
import torch

from aquila.checkpoint.tensors import LazyTensor
from aquila.kernels.formats import FORMATS, quantise_rows
from aquila.model.quantised import quantised_weights
from aquila.model.transformer import Transformer

_READ_ELEMENTS = 2 << 20


def fill_quantised(model: Transformer, tensors: Mapping[str, LazyTensor]) -> set[str]:
    """Fills every quantised matrix of `model`, which has its memory, and returns the names of the tensors it took.

    Args:
        model: after `model.quantised.quantise_base`.
        tensors: of a checkpoint of this model, by canonical name.

    Raises:
        CheckpointError: a value is not finite or does not fit the format.
    """
    taken = set()
    for name, weight in quantised_weights(model):
        tensor = tensors[name]
        step = max(1, _READ_ELEMENTS // tensor.shape[1])
        for first in range(0, tensor.shape[0], step):
            last = min(first + step, tensor.shape[0])
            rows = _rows(name, tensor, weight.format, first, last)
            weight.codes[first:last] = torch.from_numpy(rows)
        taken.add(name)
    return taken


def _rows(name: str, tensor: LazyTensor, format_name: str, first: int, last: int) -> np.ndarray:
    quantised = tensor.quantised
    if quantised is not None and quantised.type == FORMATS[format_name].gguf_type.lower():
        return np.ascontiguousarray(quantised.rows.read(first, last))
    return quantise_rows(format_name, tensor.read(first, last).astype(np.float32), rounding="search", name=name)
