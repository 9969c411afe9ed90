"""A tiny run that tests of the trainer share: a recipe over a packed shard of the tiny tokenizer."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_parts import TEXTS, pack_texts, write_jsonl
from parts import tiny_tokenizer

if TYPE_CHECKING:
    from aquila.train.recipe import Recipe

MODEL = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
SAME = ("step", "num_tokens", "loss", "lr", "grad_norm")  # what a resumed run repeats to the last bit


def run_folder(folder: Path) -> Path:
    """A tokenizer, a shard `data` and conversations `chats.jsonl` in `folder`."""
    tiny_tokenizer().save(folder / "tokenizer")
    pack_texts(folder / "data")
    pack_texts(folder / "held", TEXTS[:6])
    chats = [
        {"conversations": [{"from": "human", "value": f"add {n}"}, {"from": "gpt", "value": f"return a + {n}"}]}
        for n in range(40)
    ]
    write_jsonl(folder / "chats.jsonl", chats)
    return folder


def recipe_dict(folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe as a file has it; `changes` are whole sections or, as `train__lr`, single fields."""
    recipe: dict[str, Any] = {
        "stage": "pretrain",
        "tokenizer": str(folder / "tokenizer"),
        "model": {**MODEL, "vocab_size": tiny_tokenizer().vocab_size},
        "data": {"path": str(folder / "data"), "validation": [str(folder / "held")], "sequence_length": 32},
        "train": {"steps": 8, "global_batch_size": 8, "micro_batch_size": 4, "lr": 3e-3, "warmup_steps": 2},
        "save": {"save_interval": 3, "async_save": False},
        "eval": {"eval_interval": 4, "prompts": ["def add"], "max_new_tokens": 4},
        "run_dir": str(folder / "run"),
    }
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if field:
            recipe[section] = {**recipe.get(section, {}), field: value}
        else:
            recipe[section] = value
    return recipe


def recipe_of(folder: Path, **changes: Any) -> "Recipe":
    from aquila.train.recipe import Recipe

    return Recipe.model_validate(recipe_dict(folder, **changes))


def write_recipe(folder: Path, name: str = "recipe.yaml", **changes: Any) -> Path:
    """YAML is a superset of JSON."""
    path = folder / name
    path.write_text(json.dumps(recipe_dict(folder, **changes)), encoding="utf-8")
    return path


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def same_part(records: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(record[key] for key in SAME) for record in records]


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """No file may grow beyond so many bytes; writing more fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
