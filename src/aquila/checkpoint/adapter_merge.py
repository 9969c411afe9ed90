"""Merges an adapter into its model, or takes it out again, file to file: `weight + scale B A`, some rows at a time."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from aquila.checkpoint.adapter import Adapter, LowRank
from aquila.checkpoint.checkpoint import Checkpoint
from aquila.checkpoint.tensors import LazyTensor
from aquila.errors import CheckpointError

_FP32 = np.dtype(np.float32)
_ABOUT_THE_SOURCE = ("version", "source", "files", "name")  # of a manifest: not true of what comes out


def merge_adapter(checkpoint: Checkpoint, adapter: Adapter, *, name: str, sign: int = 1) -> Checkpoint:
    """The checkpoint with an adapter in its weights, or with `sign` -1 without the one that is in them.

    Sums are taken in float32, of dequantised weights where they are quantised; nothing is read yet. What is written in
    fp16 or bf16 is rounded once more, so taking an adapter out again gives the base to that rounding.

    Args:
        checkpoint: of the model that `adapter` was read for.
        adapter: to add or to take out.
        name: of the result.
        sign: 1 or -1.
    """
    tensors = dict(checkpoint.tensors)
    for matrix, pair in adapter.matrices.items():
        weight = f"{matrix}.weight"
        tensors[weight] = _sum(tensors[weight], pair, sign * pair.scale, f"{adapter.path}: {matrix}")
    kept: Mapping[str, object] = {
        key: value for key, value in checkpoint.manifest.items() if key not in _ABOUT_THE_SOURCE
    }
    return dataclasses.replace(checkpoint, tensors=tensors, manifest={**kept, "name": name})


def _sum(weight: LazyTensor, pair: LowRank, scale: float, where: str) -> LazyTensor:
    def read(start: int, stop: int) -> np.ndarray:
        up = pair.up.read(start, stop).astype(_FP32)
        with np.errstate(all="ignore"):  # reported below, with what to do
            update = np.float32(scale) * (up @ pair.down.numpy(_FP32))
            total = weight.read(start, stop).astype(_FP32) + update
        if not np.isfinite(update).all():
            raise CheckpointError(f"{where}: the adapter's values are not finite; it is damaged, fetch it again")
        return total

    return LazyTensor(weight.shape, _FP32, read)
