"""The folder of a run: which recipe it belongs to, and where it is. Imports no torch.

RUN/recipe.yaml        the resolved recipe: defaults, file and overrides, with the global batch size worked out
RUN/metrics.jsonl      a line a step; evaluations.jsonl, samples.jsonl, loss.png beside it
RUN/checkpoints/       what the run goes on from
RUN/exports/           a model for each checkpoint, where `save.export` asks for them
RUN/model/             the trained model, when the last step is done; or
RUN/adapter/           the trained adapter
"""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aquila.config import read_yaml
from aquila.errors import ConfigError
from aquila.files import atomic_write
from aquila.train.recipe import Recipe, load_recipe, recipe_data

log = logging.getLogger(__name__)

RECIPE = "recipe.yaml"
DEFAULT_FOLDER = Path("checkpoints_out")
# What may change between two starts of one run: where and how it is computed, kept and told, not what is computed.
_FREE = (
    "parallel.",
    "save.",
    "eval.",
    "log.",
    "run_dir",
    "train.micro_batch_size",
    "train.gradient_accumulation_steps",
)


def open_recipe(path: Path, overrides: Sequence[str]) -> tuple[Recipe, Path]:
    """The recipe of a file, or of a run to go on with, and the folder of its run.

    Raises:
        ConfigError: neither a recipe nor a run, a field is not usable, or the run was begun with another recipe.
    """
    if path.is_dir():
        if not (path / RECIPE).is_file():
            raise ConfigError(f"{path}: has no {RECIPE}, so it is not a run; give a recipe file or the folder of a run")
        recipe = load_recipe([path / RECIPE], overrides)
        changed = _differences(_recorded(path), recipe_data(recipe))
        if changed:
            log.info("going on with changed settings: %s", "; ".join(changed))
        return recipe, path
    recipe = load_recipe([path], overrides)
    run_dir = Path(recipe.run_dir) if recipe.run_dir else DEFAULT_FOLDER / path.stem
    if (run_dir / RECIPE).is_file():
        check_same(recipe, run_dir)
    return recipe, run_dir


def resume_command(run_dir: Path) -> str:
    """What goes on with a run. A folder named like a command of `aquila train` is not taken for that."""
    bare = not run_dir.is_absolute() and len(run_dir.parts) == 1
    return f"aquila train {'./' if bare else ''}{run_dir}"


def check_same(recipe: Recipe, run_dir: Path) -> None:
    """`ConfigError` when the run in `run_dir` was begun with a recipe that trains something else."""
    before, now = _recorded(run_dir), recipe_data(recipe)
    if recipe.train.global_batch_size is None:
        now["train"]["global_batch_size"] = before.get("train", {}).get("global_batch_size")
    if recipe.data.template is None:  # was filled in from the checkpoint below the run
        now["data"]["template"] = before.get("data", {}).get("template")
    different = _differences(before, now)
    if different:
        raise ConfigError(
            f"{run_dir}: was begun with another recipe: {'; '.join(different[:4])}; give this one its own "
            f"run_dir=FOLDER, or change the run on purpose with `{resume_command(run_dir)} key.sub=value`"
        )


def save_recipe(recipe: Recipe, run_dir: Path) -> None:
    """Writes the resolved recipe beside the run."""
    from ruamel.yaml import YAML  # noqa: PLC0415  keeps `import aquila.train.run_dir` light

    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 100
    text = io.StringIO()
    yaml.dump(recipe_data(recipe), text)
    with atomic_write(run_dir / RECIPE) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def frozen_batch_size(run_dir: Path) -> int | None:
    """Sequences of a step that the run was begun with: another number of devices does not change them."""
    path = run_dir / RECIPE
    return read_yaml(path).get("train", {}).get("global_batch_size") if path.is_file() else None


def _recorded(run_dir: Path) -> dict[str, Any]:
    """The recipe of a run with all defaults, whoever wrote it."""
    return recipe_data(load_recipe([run_dir / RECIPE]))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = dict(_flat(before)), dict(_flat(now))
    return [
        f"{key} {old.get(key)!r} -> {new.get(key)!r}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and not key.startswith(_FREE)
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
