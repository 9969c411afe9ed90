"""`aquila train estimate`: the memory of each device for each way to train a model."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aquila.config import format_size, parse_size

if TYPE_CHECKING:
    from aquila.model.config import ModelConfig
    from aquila.train.recipe import Recipe


def print_estimate(
    source: str, gpus: int | None, memory: str, *, sequence_length: int | None, micro_batch_size: int
) -> None:
    """A table: one row a way to train, what a device holds, and whether that fits.

    `source` is a preset, a checkpoint or a recipe, which says itself how many devices and how long sequences it has.
    """
    from aquila.model.count import count_parameters
    from aquila.train.estimate import Shape, estimate, verdict
    from aquila.train.layout import Layout
    from aquila.train.progress import short_count
    from aquila.train.recipe import LoraConfig, ParallelConfig, load_recipe

    capacity = parse_size(memory)
    recipe = load_recipe([Path(source)]) if Path(source).suffix in {".yaml", ".yml"} else None
    model = _model(source) if recipe is None else _model_of(recipe)
    gpus = gpus or (1 if recipe is None else _devices(recipe))
    sequence_length = sequence_length or (2048 if recipe is None else recipe.data.sequence_length)
    bf16 = ParallelConfig(precision="bf16")
    full = Shape(model, Layout(dp_shard=gpus), bf16, sequence_length, micro_batch_size)
    recomputed = replace(full, parallel=bf16.model_copy(update={"activation_checkpointing": "full"}))
    rows = {
        "full, fp32": replace(full, parallel=ParallelConfig()),
        "full, bf16": full,
        "full, bf16, selective checkpointing": replace(
            full, parallel=bf16.model_copy(update={"activation_checkpointing": "selective"})
        ),
        "full, bf16, full checkpointing": recomputed,
        "  and muon": replace(recomputed, optimizer="muon"),
        "  and offload": replace(recomputed, parallel=recomputed.parallel.model_copy(update={"offload": True})),
        "LoRA r=16, bf16, full checkpointing": replace(recomputed, lora=LoraConfig(r=16)),
        "QLoRA r=16, w8": replace(recomputed, lora=LoraConfig(r=16, quantize="w8")),
        "QLoRA r=16, w4": replace(recomputed, lora=LoraConfig(r=16, quantize="w4")),
    }
    print(
        f"{source}: {short_count(count_parameters(model))} parameters on {gpus} x {format_size(capacity)}, "
        f"{micro_batch_size} x {sequence_length} tokens a device"
    )
    width = max(map(len, rows))
    print(f"{'':{width}}  {'state':>9}  {'gathered':>9}  {'activations':>11}  {'in all':>9}")
    for name, shape in rows.items():
        found = estimate(shape)
        state = found.weights + found.gradients + found.optimizer
        host = f", {format_size(found.host)} of host memory" if found.host else ""
        columns = (state, found.gathered, found.activations + found.loss, found.total)
        sizes = "  ".join(f"{format_size(value):>{size}}" for value, size in zip(columns, (9, 9, 11, 9), strict=True))
        print(f"{name:{width}}  {sizes}  {verdict(found.total, capacity)}{host}")


def _devices(recipe: "Recipe") -> int:
    from aquila.train.start import planned_world  # imports torch

    return planned_world(recipe.parallel)


def _model_of(recipe: "Recipe") -> "ModelConfig":
    from aquila.train.plan import chosen_model

    if recipe.model is not None:
        return chosen_model(recipe.model, None)
    assert recipe.init.checkpoint is not None  # the recipe checked it
    return _model(recipe.init.checkpoint)


def _model(source: str) -> "ModelConfig":
    """The shape of a preset, which needs no weights here, or of a checkpoint."""
    from aquila.checkpoint.open import open_checkpoint
    from aquila.model.presets import preset, preset_names
    from aquila.zoo.store import resolve

    return preset(source) if source in preset_names() else open_checkpoint(resolve(source)).config
