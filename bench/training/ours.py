"""Our side of bench/train.py: the trainer itself, data loader, guard and metrics included. Run by `worker.Worker`."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import aquila
from aquila.data.batch import PADDING, Batch
from aquila.train.feed import Batches
from aquila.train.plan import make_plan
from aquila.train.ranks import start
from aquila.train.recipe import Recipe
from aquila.train.trainer import Trainer
from side_by_side.worker import Answer, serve

MANY = 1_000_000  # steps of a run that no bench reaches the end of


def load(settings: dict[str, Any]) -> tuple[dict[str, Any], Answer]:
    torch.set_num_threads(settings["threads"])
    recipe = Recipe.model_validate(settings["recipe"])
    ranks = start(recipe.parallel)
    plan = make_plan(recipe, ranks.world)
    trainer = Trainer(plan, ranks, Path(tempfile.mkdtemp()))
    following = iter(Batches(plan.loader, ranks, first=0, stop=MANY))

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        targets = 0
        started = time.perf_counter()
        for _ in range(question["steps"]):
            batch = next(following)
            if settings.get("trim"):
                batch = trimmed(batch)
            targets += batch.num_targets
            trainer.step(batch)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "loss": trainer.last_loss, "targets": targets}

    facts = {"version": f"aquila {aquila.__version__}, torch {torch.__version__}"}
    return facts | {"parameters": sum(p.numel() for p in trainer.model.parameters())}, answer


def trimmed(batch: Batch) -> Batch:
    """Without the columns that are padding in every row: what a collator makes that pads to the longest."""
    longest = int(np.flatnonzero((batch.document_ids != PADDING).any(axis=0))[-1]) + 1
    names = ("input_ids", "labels", "document_ids", "positions")
    return replace(batch, **{name: np.ascontiguousarray(getattr(batch, name)[:, :longest]) for name in names})


if __name__ == "__main__":
    serve(load)
