"""From a recipe to a finished run on this rank, and what a dry run finds out without allocating anything."""

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from aquila.errors import DataError
from aquila.train.build import meta_model
from aquila.train.plan import Plan, make_plan
from aquila.train.ranks import RankError, Ranks, own_errors, start
from aquila.train.recipe import ParallelConfig, Recipe
from aquila.train.run_dir import frozen_batch_size, save_recipe
from aquila.train.trainer import Outcome, Trainer

log = logging.getLogger(__name__)


def run_recipe(
    recipe: Recipe,
    run_dir: Path,
    *,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_step: Callable[[Mapping[str, Any]], None] | None = None,
) -> Outcome:
    """Trains, or goes on with, the run in `run_dir`. All ranks call this.

    What it raises it raises on each of them, but for `RankError`.

    Args:
        recipe: as read.
        run_dir: the run's folder; made when it is not there.
        on_plan: hears what is about to be done, on rank 0.
        on_step: hears every line of metrics, on rank 0.

    Raises:
        AquilaError: the recipe and what it names cannot be trained, or not any further.
        RankError: this rank alone may have found that.
    """
    ranks = start(recipe.parallel)
    memory = device_memory(ranks.device)
    plan = ranks.together(lambda: make_plan(_with_frozen_batch(recipe, run_dir), ranks.world, device_memory=memory))
    if ranks.is_main:
        on_plan(plan)
    with _own_errors_named(plan, ranks):
        trainer = Trainer(plan, ranks, run_dir, on_step=on_step)
        if ranks.is_main:  # only now is the folder ours, and the run in it the one of this recipe
            save_recipe(plan.recipe, run_dir)
        outcome = trainer.run()
    ranks.close()
    return outcome


@contextmanager
def _own_errors_named(plan: Plan, ranks: Ranks) -> Generator[None]:
    try:
        yield
    except DataError as error:  # each rank reads sequences of its own
        with own_errors(ranks.rank):
            raise error from None
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0].partition("\n")[0].rstrip(".") or "no more to be had"
        raise RankError(
            f"rank {ranks.rank}: {ranks.device} has not enough memory ({reason}); lower train.micro_batch_size, "
            f"now {plan.micro_batch_size}, or set parallel.activation_checkpointing=full; --dry-run shows what fits"
        ) from None


def _with_frozen_batch(recipe: Recipe, run_dir: Path) -> Recipe:
    """A run keeps the batch that it was begun with, on however many devices it goes on."""
    size = frozen_batch_size(run_dir)
    if size is None or recipe.train.global_batch_size is not None:
        return recipe
    log.info("the run keeps its %d sequences a step", size)
    changes = {"global_batch_size": size, "gradient_accumulation_steps": None}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changes)})


def device_memory(device: torch.device) -> int | None:
    """Bytes of an accelerator; None on a CPU."""
    return None if device.type == "cpu" else torch.accelerator.get_memory_info(device)[1]


def planned_world(config: ParallelConfig) -> int:
    """Devices that a recipe is written for: those it names; where it says auto, the accelerators of this machine."""
    fixed = config.dp_replicate * config.cp * config.tp
    if config.dp_shard != "auto":
        return fixed * config.dp_shard
    here = torch.accelerator.device_count() if torch.accelerator.is_available() else 1
    return max(fixed, here // fixed * fixed)


def check_shapes(plan: Plan) -> None:
    """Runs forward and backward pass of one micro-batch on the meta device: every shape, no memory."""
    model = meta_model(plan)
    shape = (plan.micro_batch_size, plan.recipe.data.sequence_length)
    input_ids = torch.zeros(shape, dtype=torch.int64, device="meta")
    model(input_ids, labels=input_ids).backward()
