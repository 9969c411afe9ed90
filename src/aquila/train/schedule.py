"""How the learning rate moves. Steps are optimizer steps; step 0 is the first.

cosine: Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, down to `min_lr_ratio`. wsd (warm-up, stable, decay): Hu
et al. 2024, arXiv:2404.06395, section 4."""

import math

from aquila.errors import ConfigError
from aquila.train.recipe import TrainConfig


def warmup_steps(config: TrainConfig, total_steps: int) -> int:
    """Steps of linear warm-up: `config.warmup_steps`, or that fraction of all steps, rounded down."""
    if config.warmup_steps < 1:
        return int(config.warmup_steps * total_steps)
    return int(config.warmup_steps)


def check_schedule(config: TrainConfig, total_steps: int) -> None:
    """`ConfigError` where warm-up and decay do not fit into the run."""
    warmup = warmup_steps(config, total_steps)
    if warmup > total_steps:
        raise ConfigError(
            f"train.warmup_steps: {warmup} steps of warm-up are more than the {total_steps} steps of the run; "
            "give fewer, or a fraction such as 0.01"
        )
    if config.warmup_start_lr > config.lr:
        raise ConfigError(f"train.warmup_start_lr: {config.warmup_start_lr:g} is above train.lr {config.lr:g}")


def lr_factor(step: int, total_steps: int, config: TrainConfig) -> float:
    """Share of the highest learning rate that step `step` (from 0) uses.

    Warm-up reaches the highest rate at its last step; a decay reaches `min_lr_ratio` at the last step of the run.
    """
    done, warmup = step + 1, warmup_steps(config, total_steps)
    if done <= warmup:
        return max(config.warmup_start_lr / config.lr, done / warmup)
    if config.schedule == "constant":
        return 1.0
    begin = warmup
    if config.schedule == "wsd":
        begin = max(warmup, total_steps - round(config.decay_ratio * total_steps))
        if done <= begin:
            return 1.0
    progress = (done - begin) / max(1, total_steps - begin)
    remaining = 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * remaining
