"""From a checkpoint on disk to a torch model, within 1.15 times the bytes of the weights.

The module is built on the meta device, so nothing is allocated twice. Weights that read the same input (q, k, v; gate,
up) are laid side by side, so that they can be multiplied as one. A tensor whose file already holds it in the wanted
dtype is used in place (memory-mapped, private copy on write); the others are read a few rows at a time.
"""

import mmap
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from aquila.checkpoint.open import Checkpoint
from aquila.checkpoint.tensors import LazyTensor
from aquila.model.transformer import Transformer

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
JOINED = (
    ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
)
HUGE_PAGE = 2 << 20


def load_model(
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    dtype: torch.dtype,
    skip: Callable[[str], bool] = lambda name: False,
) -> Transformer:
    """Builds the model of `checkpoint` with its weights, for inference (no gradients).

    Tensors that `skip` names stay on the meta device; of those that are laid side by side, all or none.
    """
    with torch.device("meta"):
        model = Transformer(checkpoint.config)
    remaining = dict(checkpoint.tensors)
    for layer in range(checkpoint.config.num_hidden_layers):
        for group in JOINED:
            names = [f"model.layers.{layer}.{name}" for name in group]
            if skip(names[0]):
                continue
            tensors = _load_joined([remaining.pop(name) for name in names], device, dtype)
            for name, tensor in zip(names, tensors, strict=True):
                set_weight(model, name, tensor)
    for name, lazy in remaining.items():
        if not skip(name):
            set_weight(model, name, _load(lazy, device, dtype))
    if checkpoint.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval()


def set_weight(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Makes `tensor` the parameter `name` of a module."""
    path, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(path), attribute, nn.Parameter(tensor, requires_grad=False))


def _load_joined(lazies: Sequence[LazyTensor], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Tensors of equal width as views of one storage, row after row."""
    rows = [lazy.shape[0] for lazy in lazies]
    joined = _allocate((sum(rows), *lazies[0].shape[1:]), device, dtype)
    views = list(joined.split(rows))
    for view, lazy in zip(views, lazies, strict=True):
        fill_tensor(view, lazy)
    return views


def _load(lazy: LazyTensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    if lazy.mapped is not None and device.type == "cpu":
        tensor = as_torch(lazy.mapped)
        if tensor.dtype == dtype:
            return tensor
    out = _allocate(lazy.shape, device, dtype)
    fill_tensor(out, lazy)
    return out


def fill_tensor(out: Tensor, lazy: LazyTensor) -> None:
    """Reads a tensor into memory that is there, a few rows at a time."""
    start = 0
    for rows in lazy.chunks():
        out[start : start + len(rows)] = as_torch(rows)
        start += len(rows)


def _allocate(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Storage for a weight; on Linux in huge pages, since every step reads all of it."""
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    if device.type != "cpu" or num_bytes < HUGE_PAGE or "MADV_HUGEPAGE" not in mmap.__dict__:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    memory = mmap.mmap(-1, num_bytes)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(tuple(shape))


def as_torch(array: np.ndarray) -> Tensor:
    """A tensor over the memory of `array`; numpy has no bf16 of its own, so those bits pass as int16."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
