"""Adapters in the memory of the native decoder: both matrices of every pair in the format of their file."""

from typing import TYPE_CHECKING

import numpy as np

from aquila.checkpoint.adapter import Adapter, LowRank
from aquila.checkpoint.native_weights import fill, native_format
from aquila.checkpoint.tensors import LazyTensor
from aquila.config import format_size
from aquila.errors import GenerationError
from aquila.kernels.formats import FORMATS
from aquila.kernels.native import native_module

if TYPE_CHECKING:
    from aquila.kernels._native import Decoder

SLOTS = (  # matrices of a layer in the order of native/decoder.h
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
_ALIGNMENT = 64


def adapter_bytes(adapter: Adapter) -> int:
    """Memory that `place_adapter` takes."""
    return sum(_size(item.down, _format(item)) + _size(item.up, _format(item)) for item in adapter.matrices.values())


def place_adapter(decoder: "Decoder", number: int, adapter: Adapter) -> None:
    """Reads an adapter and makes it the decoder's adapter `number`. The decoder is as before when that fails."""
    native = native_module()
    assert native is not None, "there is a decoder"
    try:
        room = native.Buffer(adapter_bytes(adapter)).array()
    except MemoryError:
        raise GenerationError(
            f"{adapter.path}: no room for an adapter of {format_size(adapter_bytes(adapter))}; load fewer"
        ) from None
    start = 0

    def place(name: str, tensor: LazyTensor, form: str) -> np.ndarray:
        nonlocal start
        out = room[start : start + FORMATS[form].matrix_bytes(*tensor.shape)]
        fill(native, name, tensor, form, out)
        start += _size(tensor, form)
        return out

    placed = {
        name: (place(f"{name}.lora_A", item.down, _format(item)), place(f"{name}.lora_B", item.up, _format(item)))
        for name, item in adapter.matrices.items()
    }
    for name, (down, up) in placed.items():
        layer, _, part = name.removeprefix("model.layers.").partition(".")
        item = adapter.matrices[name]
        decoder.set_low_rank(number, int(layer), SLOTS.index(part), _format(item), adapter.rank, down, up, item.scale)


def _format(item: LowRank) -> str:
    """That of the file, for both matrices."""
    down, up = native_format(item.down), native_format(item.up)
    return down if down == up else "f32"


def _size(tensor: LazyTensor, form: str) -> int:
    return -(-FORMATS[form].matrix_bytes(*tensor.shape) // _ALIGNMENT) * _ALIGNMENT
