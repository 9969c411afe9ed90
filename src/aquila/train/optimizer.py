"""The optimizer of a recipe, and the one door through which its learning rate changes.

AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101, fused into one kernel. Muon is in muon.py. Norms and biases are
not decayed."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from aquila.train.muon import Muon, split
from aquila.train.ranks import Ranks
from aquila.train.recipe import TrainConfig

PEAK = "peak_lr"  # in each group: what the schedule's factor is multiplied with


def build_optimizer(model: nn.Module, config: TrainConfig, ranks: Ranks) -> Optimizer:
    """One optimizer over the parameters that are trained."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if config.optimizer == "adamw":
        groups = [{**group, PEAK: config.lr} for group in _decay_groups(trained, config)]
        return torch.optim.AdamW(
            groups, lr=config.lr, betas=(config.adam_beta1, config.adam_beta2), eps=config.eps, fused=True
        )
    matrices, rest = split(model)
    adam = {"algorithm": "adamw", "betas": (config.adam_beta1, config.adam_beta2), "eps": config.eps}
    muon = {"algorithm": "muon", "momentum": config.muon_momentum, "weight_decay": config.weight_decay}
    groups = [{**group, **adam, "lr": config.lr, PEAK: config.lr} for group in _decay_groups(rest, config)]
    if matrices:
        groups.append({"params": list(matrices.values()), **muon, "lr": config.muon_lr, PEAK: config.muon_lr})
    return Muon(groups, ranks)


def _decay_groups(parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> list[dict[str, Any]]:
    decayed = [parameter for parameter in parameters.values() if parameter.dim() > 1]
    others = [parameter for parameter in parameters.values() if parameter.dim() <= 1]
    groups = [(decayed, config.weight_decay), (others, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


def set_lr(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Sets every group to `factor` times its highest learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group[PEAK] * factor


class LossScale:
    """fp16: small gradients would be zero, so the loss is multiplied; on overflow the scale halves, in time it doubles.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2. Always 1 in other precisions.
    """

    def __init__(self, config: TrainConfig, *, enabled: bool) -> None:
        self.enabled, self.window = enabled, config.loss_scale_window
        self.scale = config.loss_scale if enabled else 1.0
        self._good_steps = 0

    def update(self, *, overflowed: bool) -> None:
        if not self.enabled:
            return
        self._good_steps = 0 if overflowed else self._good_steps + 1
        if overflowed:
            self.scale = max(1.0, self.scale / 2)
        elif self._good_steps == self.window:
            self.scale, self._good_steps = self.scale * 2, 0

    def state(self) -> dict[str, Any]:
        return {"scale": self.scale, "good_steps": self._good_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.scale, self._good_steps = state["scale"], state["good_steps"]
