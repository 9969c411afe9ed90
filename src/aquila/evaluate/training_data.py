"""What a model of ours was trained on, as the manifest of its training says, and whether that lies here.

A manifest vouches for its data by a digest over all that the batches depend on. The files count as those only if a
loader opened on them has the same digest.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquila.checkpoint.checkpoint import Checkpoint
from aquila.checkpoint.folder import read_json
from aquila.checkpoint.run_folder import is_training_manifest, read_manifest
from aquila.data.config import DataConfig
from aquila.data.loader import open_loader
from aquila.data.shards import bin_path, shard_prefix
from aquila.errors import AquilaError, CheckpointError, EvaluationError
from aquila.model.config import from_hugging_face
from aquila.tokenizer.load import has_tokenizer_files, load_tokenizer
from aquila.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """The data of a run, found here and checked.

    Attributes:
        digest: of the manifest, and of the files.
        paths: shards, or files of conversations.
        tokenizer: of the model.
        base: the model that the run began with, whose own data is not known from here; "" for a new one.
    """

    digest: str
    paths: tuple[Path, ...]
    tokenizer: Tokenizer | None
    base: str

    @property
    def num_bytes(self) -> int:
        files = [path if path.is_file() else bin_path(shard_prefix(path)) for path in self.paths]
        return sum(file.stat().st_size for file in files if file.is_file())


def training_facts(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """For `run.json`: the step of a training run that a checkpoint is, or was made from; None where nothing says so.

    A checkpoint that was converted names what it was made from; that is gone where the run was pruned or moved.
    """
    source = checkpoint.manifest.get("source")
    places = [checkpoint.path, *([Path(source)] if isinstance(source, str) else [])]
    found = next((place for place in places if is_training_manifest(place)), None)
    if found is None:
        return None
    try:
        manifest = read_manifest(found)
    except CheckpointError as error:
        log.warning("what the model was trained on is not known: %s", error)
        return None
    recipe = manifest["recipe"]
    return {
        "data": manifest["identity"]["data"],
        "checkpoint": str(found.resolve()),
        "step": manifest["step"],
        "num_tokens": manifest["num_tokens"],
        "stage": recipe.get("stage"),
        "sources": [str(path) for path in _config(recipe).sft or [each.path for each in _config(recipe).sources]],
        "base": _base(recipe),
    }


def open_training_data(facts: Mapping[str, Any]) -> TrainingData:
    """Opens the data that `training_facts` name.

    Raises:
        EvaluationError: it is not here, or not the same any more; the message says what is missing.
    """
    checkpoint = Path(facts["checkpoint"])
    if not is_training_manifest(checkpoint):
        raise EvaluationError(f"the training checkpoint {checkpoint} is not here")
    manifest = read_manifest(checkpoint)
    recipe = manifest["recipe"]
    config = _config(recipe)
    tokenizer = load_tokenizer(checkpoint) if has_tokenizer_files(checkpoint) else None
    model = from_hugging_face(read_json(checkpoint / "config.json"), str(checkpoint / "config.json"))
    try:
        loader = open_loader(
            config,
            stage=recipe["stage"],
            tokenizer=tokenizer,
            vocab_size=model.vocab_size,
            global_batch_size=recipe["train"]["global_batch_size"],
            seed=recipe["train"]["seed"],
        )
    except AquilaError as error:
        raise EvaluationError(f"the training data is not here: {error}") from None
    if loader.digest != facts["data"]:
        raise EvaluationError(
            f"the files at {', '.join(facts['sources'])} are not those of the training: their digest is "
            f"{loader.digest[:12]}, the manifest's {facts['data'][:12]}"
        )
    paths = tuple(config.sft) or tuple(each.path for each in config.sources)
    return TrainingData(facts["data"], paths, tokenizer, _base(recipe))


def _config(recipe: Mapping[str, Any]) -> DataConfig:
    return DataConfig.model_validate(recipe["data"])


def _base(recipe: Mapping[str, Any]) -> str:
    return str((recipe.get("init") or {}).get("checkpoint") or "")
