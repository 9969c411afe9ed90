"""Which piece of a parameter lies here, and how whole tensors get into pieces.

Tensor parallel cuts a matrix first, by rows or columns; FSDP then cuts what is left by rows, in pieces as
`torch.chunk` makes them: of equal size but the last ones, which may be shorter or empty.
"""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

Slices = tuple[slice, ...]


def local(tensor: Tensor) -> Tensor:
    """The piece that lies here; the tensor itself when it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_slices(parameter: Tensor, place: Mapping[str, int]) -> Slices:
    """The piece of `parameter` that the device at `place` (mesh dimension -> index) holds, as slices of the whole."""
    ranges = [(0, size) for size in parameter.shape]
    if isinstance(parameter, DTensor):
        mesh, names = parameter.device_mesh, parameter.device_mesh.mesh_dim_names
        assert names is not None
        by_name = dict(zip(names, parameter.placements, strict=True))
        for name in ("tp", "dp_shard"):
            placement = by_name.get(name)
            if placement is None or placement.is_replicate():
                continue
            dim = placement.dim if isinstance(placement, Shard) else 0  # FSDP's piece of tensor parallel rows: strided
            ranges[dim] = _cut(*ranges[dim], mesh[name].size(), place[name])
    return tuple(slice(start, stop) for start, stop in ranges)


def _cut(start: int, stop: int, pieces: int, index: int) -> tuple[int, int]:
    size = -(-(stop - start) // pieces)
    first = min(start + index * size, stop)
    return first, min(first + size, stop)


def local_slices(parameter: Tensor) -> Slices:
    """The piece that lies here, as slices of the whole tensor."""
    return shard_slices(parameter, own_place(parameter))


def own_place(parameter: Tensor) -> dict[str, int]:
    """Where this process stands in the mesh of `parameter`."""
    if not isinstance(parameter, DTensor):
        return {}
    names, coordinate = parameter.device_mesh.mesh_dim_names, parameter.device_mesh.get_coordinate()
    assert names is not None
    assert coordinate is not None
    return dict(zip(names, coordinate, strict=True))


@torch.no_grad()
def copy_into(parameter: Tensor, whole: Tensor) -> None:
    """Keeps this device's piece of `whole`, which has the shape of the parameter on every process."""
    local(parameter).copy_(whole[local_slices(parameter)])


@torch.no_grad()
def initialise(model: nn.Module, seed: int, initializer_range: float) -> None:
    """Normal weights, norms one, biases zero: the same numbers on any number of devices.

    Each parameter draws from a generator of its own, seeded with its name, and each process keeps its piece.
    """
    for name, parameter in model.named_parameters():
        piece = local(parameter)
        if name.endswith("norm.weight"):
            piece.fill_(1.0)
        elif name.endswith(".bias"):
            piece.zero_()
        else:
            digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
            generator = torch.Generator(piece.device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            whole = torch.empty(parameter.shape, dtype=piece.dtype, device=piece.device)
            copy_into(parameter, whole.normal_(0.0, initializer_range, generator=generator))
