"""From a recipe to everything that follows from it, checked: model, tokenizer, data, steps, batches. Imports no torch.

What cannot be trained is refused here, before a device is touched, in one line that says what to change.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquila.checkpoint.folder import read_json
from aquila.checkpoint.names import expected_tensors
from aquila.checkpoint.open import Checkpoint, open_checkpoint
from aquila.data.loader import Loader, open_loader
from aquila.data.sidecar import tokenizer_digest
from aquila.errors import ConfigError
from aquila.model.config import ModelConfig, from_hugging_face, parse_config
from aquila.model.presets import preset
from aquila.tokenizer.load import has_tokenizer_files, load_tokenizer
from aquila.tokenizer.tokenizer import Tokenizer
from aquila.train.estimate import Shape, estimate
from aquila.train.layout import Layout, plan_layout
from aquila.train.recipe import Recipe
from aquila.train.schedule import check_schedule
from aquila.zoo.store import resolve

log = logging.getLogger(__name__)

CPU_MICRO_TOKENS = 4096  # larger ones gain nothing on a CPU (bench/train.py)
_MEMORY_SHARE = 0.88  # of a device that `micro_batch_size: auto` fills
_SPARE_IDS = 1024  # a vocabulary may be padded up to a round number


@dataclass(frozen=True, eq=False)
class Plan:
    """A run that can be started. `accumulation` micro-batches of `micro_batch_size` rows make a step on each device."""

    recipe: Recipe
    layout: Layout
    model: ModelConfig
    tokenizer: Tokenizer
    tokenizer_digest: str
    checkpoint: Checkpoint | None
    loader: Loader
    steps: int
    global_batch_size: int
    micro_batch_size: int
    accumulation: int

    @property
    def tokens_per_step(self) -> int:
        return self.global_batch_size * self.recipe.data.sequence_length

    def shape(self) -> Shape:
        """What memory is estimated from."""
        return _shape(self.recipe, self.model, self.layout, self.micro_batch_size)


def make_plan(recipe: Recipe, world: int, *, device_memory: int | None = None) -> Plan:
    """Checks a recipe for `world` processes and fills in what it leaves open.

    Args:
        recipe: as read.
        world: processes of the run.
        device_memory: bytes of each accelerator, for `micro_batch_size: auto`; None on a CPU.

    Raises:
        AquilaError: the recipe, its files or their combination cannot be trained.
    """
    layout = plan_layout(recipe.parallel, world)
    checkpoint = None if recipe.init.checkpoint is None else open_checkpoint(resolve(recipe.init.checkpoint))
    tokenizer, digest = _tokenizer(recipe, checkpoint)
    recipe = _with_template(recipe, checkpoint, tokenizer)
    model = _model(recipe, checkpoint, tokenizer)
    _check_vocabulary(model, tokenizer, digest)
    _check_length(recipe, model)
    layout.check(model, recipe.data.sequence_length, recipe.lora)
    global_batch_size, micro_batch_size, accumulation = _batches(recipe, model, layout, device_memory)
    loader = open_loader(
        recipe.data,
        stage=recipe.stage,
        tokenizer=tokenizer,
        vocab_size=model.vocab_size,
        global_batch_size=global_batch_size,
        seed=recipe.train.seed,
    )
    steps = _steps(recipe, global_batch_size, loader)
    check_schedule(recipe.train, steps)
    batches = {"global_batch_size": global_batch_size}
    resolved = recipe.model_copy(update={"train": recipe.train.model_copy(update=batches)})
    return Plan(
        resolved,
        layout,
        model,
        tokenizer,
        digest,
        checkpoint,
        loader,
        steps,
        global_batch_size,
        micro_batch_size,
        accumulation,
    )


def _tokenizer(recipe: Recipe, checkpoint: Checkpoint | None) -> tuple[Tokenizer, str]:
    """The recipe's tokenizer, which must be the one that the checkpoint was trained with."""
    own = checkpoint.load_tokenizer() if checkpoint is not None and checkpoint.has_tokenizer else None
    if recipe.tokenizer is None:
        if own is None:
            raise ConfigError(f"tokenizer: {recipe.init.checkpoint} brings none; name one")
        return own, tokenizer_digest(own)
    chosen = _open_tokenizer(recipe.tokenizer)
    if recipe.stage == "pretrain" and chosen.bos_token_id is not None:
        chosen.add_bos_token = True  # as every document of the data begins, so will every prompt
    digest = tokenizer_digest(chosen)
    if own is not None and tokenizer_digest(own) != digest:
        raise ConfigError(
            f"tokenizer: {recipe.tokenizer} has digest {digest[:16]}, the weights of {recipe.init.checkpoint} were "
            f"trained with {tokenizer_digest(own)[:16]}; leave tokenizer out, and pack the data with it"
        )
    return chosen, digest


def _with_template(recipe: Recipe, checkpoint: Checkpoint | None, tokenizer: Tokenizer) -> Recipe:
    """Conversations are written as the checkpoint's record says, where neither recipe nor tokenizer says anything."""
    known = checkpoint.manifest.get("chat_template") if checkpoint is not None else None
    if (
        recipe.stage != "sft"
        or recipe.data.template is not None
        or tokenizer.chat_template is not None
        or known is None
    ):
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"template": known})})


def _open_tokenizer(source: str) -> Tokenizer:
    path = resolve(source)
    return (
        load_tokenizer(path) if has_tokenizer_files(path) or path.is_file() else open_checkpoint(path).load_tokenizer()
    )


def _model(recipe: Recipe, checkpoint: Checkpoint | None, tokenizer: Tokenizer) -> ModelConfig:
    """The config of the recipe, or of the checkpoint; where both are given their tensors must agree."""
    if checkpoint is not None:
        if recipe.model is None:
            return checkpoint.config
        base = None if isinstance(recipe.model, str) or "base" in recipe.model else checkpoint.config
        wanted = chosen_model(recipe.model, base)
        ours, theirs = expected_tensors(wanted), expected_tensors(checkpoint.config)
        if ours != theirs:
            name = next(name for name in {**theirs, **ours} if ours.get(name) != theirs.get(name))
            raise ConfigError(
                f"model: is not the model of {recipe.init.checkpoint}: {name} would be {list(ours.get(name, ()))}, the "
                f"checkpoint has {list(theirs.get(name, ()))}; leave model out"
            )
        return wanted
    assert recipe.model is not None  # the recipe checked it
    config = chosen_model(recipe.model, None)
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_ids": tuple(tokenizer.eos_token_ids),
        "pad_token_id": tokenizer.pad_token_id,
    }
    return config.model_copy(update=ends)  # those of the vocabulary that it is trained with


def chosen_model(choice: str | dict[str, Any], base: ModelConfig | None) -> ModelConfig:
    if isinstance(choice, dict):
        changes = dict(choice)
        name = changes.pop("base", None)
        if name is None and base is None:
            return parse_config(changes, "model")
        start = preset(name) if name is not None else base
        assert start is not None
        fields = start.model_dump()
        derived = {"num_attention_heads", "hidden_size"} & changes.keys()
        if derived and "head_dim" not in changes:
            del fields["head_dim"]
        if "num_attention_heads" in changes and "num_key_value_heads" not in changes:
            del fields["num_key_value_heads"]
        return parse_config(fields | changes, "model")
    path = Path(choice)
    if path.suffix == ".json" or path.is_dir():
        file = path / "config.json" if path.is_dir() else path
        return from_hugging_face(read_json(file), str(file))
    return preset(choice)


def _check_vocabulary(model: ModelConfig, tokenizer: Tokenizer, digest: str) -> None:
    size = tokenizer.vocab_size
    if not size <= model.vocab_size <= size + _SPARE_IDS:
        raise ConfigError(
            f"model: has {model.vocab_size} ids, the tokenizer (digest {digest[:16]}) has {size}; they are not made "
            f"for each other: set model.vocab_size={size} for a new model, or choose the model's own tokenizer"
        )


def _check_length(recipe: Recipe, model: ModelConfig) -> None:
    length, longest = recipe.data.sequence_length, model.max_position_embeddings
    scaling = model.rope_scaling
    if scaling is not None and scaling.type != "llama3":
        longest = int(longest * scaling.factor)
    if length > longest:
        raise ConfigError(
            f"data.sequence_length: {length} is longer than the {longest} positions of the model; give at most "
            f"{longest}, or set model.max_position_embeddings={length} for a new model"
        )


def _batches(recipe: Recipe, model: ModelConfig, layout: Layout, device_memory: int | None) -> tuple[int, int, int]:
    """Global batch size, rows of a micro-batch, micro-batches a step; all consistent with each other."""
    train, places = recipe.train, layout.data_world
    micro, accumulation, total = train.micro_batch_size, train.gradient_accumulation_steps, train.global_batch_size
    if total is None:
        assert micro != "auto"  # the recipe checked it
        accumulation = accumulation or 1
        return micro * accumulation * places, micro, accumulation
    if total % places:
        below = total // places * places
        fitting = " or ".join(str(size) for size in (below, below + places) if size)
        raise ConfigError(
            f"train.global_batch_size: {total} sequences cannot be shared equally by {places} data-parallel devices; "
            f"set it to {fitting}"
        )
    rows = total // places
    if accumulation is not None and rows % accumulation:
        raise ConfigError(
            f"train.gradient_accumulation_steps: {accumulation} does not divide the {rows} sequences of a device; "
            "leave it out"
        )
    if micro == "auto":
        if accumulation is not None:
            return total, rows // accumulation, accumulation
        micro = _largest_micro_batch(recipe, model, layout, rows, device_memory)
    elif rows % micro or (accumulation is not None and micro * accumulation != rows):
        product = f" x gradient_accumulation_steps {accumulation}" if accumulation is not None else ""
        raise ConfigError(
            f"train.micro_batch_size: {micro}{product} does not make up the {rows} sequences of a device "
            f"(global_batch_size {total} / {places} devices); set it to a divisor, or to auto"
        )
    return total, micro, rows // micro


def _largest_micro_batch(
    recipe: Recipe, model: ModelConfig, layout: Layout, rows: int, device_memory: int | None
) -> int:
    """The largest divisor of `rows` that a device has memory for; 1 when none is known to fit."""
    best = 1
    for size in (size for size in range(1, rows + 1) if rows % size == 0):
        if device_memory is None:
            fits = size * recipe.data.sequence_length <= CPU_MICRO_TOKENS
        else:
            fits = estimate(_shape(recipe, model, layout, size)).total <= _MEMORY_SHARE * device_memory
        if fits:
            best = size
    return best


def _shape(recipe: Recipe, model: ModelConfig, layout: Layout, micro_batch_size: int) -> Shape:
    return Shape(
        model,
        layout,
        recipe.parallel,
        recipe.data.sequence_length,
        micro_batch_size,
        recipe.train.optimizer,
        recipe.lora,
    )


def _steps(recipe: Recipe, global_batch_size: int, loader: Loader) -> int:
    train = recipe.train
    if train.steps is not None:
        return train.steps
    if train.num_tokens is not None:
        return -(-train.num_tokens // (global_batch_size * recipe.data.sequence_length))
    assert train.epochs is not None
    steps = int(train.epochs * loader.num_sequences) // global_batch_size
    if steps == 0:
        raise ConfigError(
            f"train.epochs: {train.epochs:g} epochs of {loader.num_sequences} sequences are less than one step of "
            f"{global_batch_size}; give more epochs or a smaller train.global_batch_size"
        )
    return steps
