"""Muon for the matrices of the blocks, AdamW for everything else, as one optimizer over any number of devices.

Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101.
The direction of a matrix needs all of it, the rest of a step does not. So each matrix has one owner among all devices:
pieces travel to the owner, it orthogonalises the whole once, and pieces travel back. Momentum stays in pieces laid out
like the parameter, named by it, and so can be saved and cut anew like the parameter.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from aquila.train.ranks import Ranks
from aquila.train.shards import local, shard_slices

# Quintic whose iteration pulls singular values to about 1 fastest (the post, "Coefficients").
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def split(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Trained parameters by name: the matrices of the blocks, and the rest (embedding, head, norms, adapters ...)."""
    matrices, rest = {}, {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (matrices if name.endswith("_proj.weight") else rest)[name] = parameter
    return matrices, rest


class Muon(Optimizer):
    """One `step` for two kinds of groups.

    A group has `params`, `lr`, `weight_decay` (decoupled) and `algorithm`: "muon" with `momentum`, or "adamw" with
    `betas` and `eps`.

    State of a parameter: `momentum`; or `exp_avg`, `exp_avg_sq` and `step`.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], ranks: Ranks) -> None:
        defaults = {"lr": 0.02, "weight_decay": 0.0, "momentum": 0.95, "betas": (0.9, 0.95), "eps": 1e-8}
        super().__init__(groups, defaults)
        self.ranks = ranks

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # ty: ignore[incompatible-method-override]
        """One update. Every process calls it, with gradients that were summed over all of them."""
        matrices: list[tuple[Tensor, dict[str, Any]]] = []
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["algorithm"] == "muon":
                matrices += [(parameter, group) for parameter in trained]
            else:
                self._adamw(trained, group)
        updates = [self._momentum(parameter, group["momentum"]) for parameter, group in matrices]
        directions = orthogonalise_all([parameter for parameter, _ in matrices], updates, self.ranks)
        for (parameter, group), direction in zip(matrices, directions, strict=True):
            rows, columns = parameter.shape
            scale = max(1.0, rows / columns) ** 0.5  # the same change of the output whatever the shape
            piece = local(parameter)
            piece.mul_(1 - group["lr"] * group["weight_decay"])
            piece.add_(direction, alpha=-group["lr"] * scale)

    def _momentum(self, parameter: Tensor, beta: float) -> Tensor:
        """Nesterov's look-ahead of the momentum: a piece, as it lies here."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        gradient, momentum = local(parameter.grad), local(state["momentum"])
        momentum.lerp_(gradient, 1 - beta)
        return gradient.lerp(momentum, beta)

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=local(parameter).device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            [local(parameter) for parameter in parameters],
            [local(parameter.grad) for parameter in parameters if parameter.grad is not None],
            [local(state["exp_avg"]) for state in states],
            [local(state["exp_avg_sq"]) for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            maximize=False,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )


def orthogonalise(matrix: Float[Tensor, "rows columns"], steps: int = 5) -> Float[Tensor, "rows columns"]:
    """The nearest matrix with singular values near 1 (about 0.7 to 1.2): Newton-Schulz, in bf16 but on a CPU.

    Rows and columns play the same part, so the smaller side is multiplied with itself.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrix.float() if matrix.device.type == "cpu" else matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)


def orthogonalise_all(parameters: list[Tensor], updates: list[Tensor], ranks: Ranks) -> list[Tensor]:
    """`orthogonalise` of each update, once among all devices.

    Args:
        parameters: how each whole matrix is cut.
        updates: the piece of each that lies here.
        ranks: the devices.

    Returns:
        The piece of each direction that belongs here.
    """
    if ranks.mesh is None or not parameters:
        return [orthogonalise(update) for update in updates]
    assert ranks.copy_group is not None
    assert ranks.replica_group is not None
    owners, replicas = ranks.copy_group.size(), ranks.replica_group.size()
    directions = [torch.empty_like(update) for update in updates]
    rounds = [range(start, min(start + owners, len(updates))) for start in range(0, len(updates), owners)]
    for number, turn in enumerate(rounds):  # copies of the model take turns
        if number % replicas == ranks.replica_group.rank():
            results = _round([parameters[i] for i in turn], [updates[i] for i in turn], ranks.copy_group)
            for i, result in zip(turn, results, strict=True):
                directions[i].copy_(result)
    if replicas > 1:
        for number, turn in enumerate(rounds):
            flat = torch.cat([directions[i].flatten() for i in turn])
            dist.broadcast(flat, group=ranks.replica_group, group_src=number % replicas)
            for i, piece in zip(turn, flat.split([directions[i].numel() for i in turn]), strict=True):
                directions[i].copy_(piece.view_as(directions[i]))
    return directions


def _round(parameters: list[Tensor], updates: list[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    """The n-th process of the group gathers the n-th matrix, orthogonalises it, and sends the pieces back."""
    owners, me = group.size(), group.rank()
    sent = [update.numel() for update in updates] + [0] * (owners - len(updates))
    shapes = list(_piece_shapes(parameters[me], owners)) if me < len(parameters) else []
    received = [rows * columns for _, (rows, columns) in shapes] or [0] * owners
    buffer = updates[0].new_empty(sum(received))
    dist.all_to_all_single(buffer, torch.cat([update.flatten() for update in updates]), received, sent, group=group)
    if shapes:
        whole = buffer.new_empty(parameters[me].shape)
        for (slices, shape), piece in zip(shapes, buffer.split(received), strict=True):
            whole[slices] = piece.view(shape)
        whole = orthogonalise(whole)
        buffer = torch.cat([whole[slices].flatten() for slices, _ in shapes])
    result = updates[0].new_empty(sum(sent))
    dist.all_to_all_single(result, buffer, sent, received, group=group)
    pieces = result.split(sent)[: len(updates)]
    return [piece.view_as(update) for piece, update in zip(pieces, updates, strict=True)]


def _piece_shapes(parameter: Tensor, owners: int) -> Iterator[tuple[tuple[slice, ...], tuple[int, int]]]:
    """Where the piece of each process of a copy lies in the whole matrix, and its shape."""
    assert isinstance(parameter, DTensor)
    names = parameter.device_mesh.mesh_dim_names or ()
    tp = parameter.device_mesh["tp"].size() if "tp" in names else 1
    for member in range(owners):
        slices = shard_slices(parameter, {"dp_shard": member // tp, "tp": member % tp})
        rows, columns = (part.stop - part.start for part in slices)
        yield slices, (rows, columns)
