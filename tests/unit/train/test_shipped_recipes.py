"""Each recipe of the repository can be planned: every shape of its model, memory, steps, on the devices it names."""

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest

from aquila.checkpoint.names import expected_tensors
from aquila.cli.train_run import dry_run
from aquila.config import parse_size
from aquila.model.config import ModelConfig, to_hugging_face
from aquila.model.presets import preset
from aquila.train.recipe import Recipe, load_recipe, recipe_data
from data_parts import write_documents, write_jsonl
from parts import ROOT, tiny_tokenizer
from train_parts import recipe_of, run_folder

RECIPES = sorted((ROOT / "recipes").glob("*/*.yaml"))
ROOM = {"1gpu": "80GB", "8gpu": "80GB", "64gpu": "80GB", "24gb": "24GB"}  # what the name of a recipe promises


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data for the batches of 4 Mi tokens, which no test reads, and conversations."""
    folder = run_folder(tmp_path_factory.mktemp("recipes"))
    write_documents(folder / "many", [[5] * 100_000] * 90)
    chats = [json.loads(line) for line in (folder / "chats.jsonl").read_text(encoding="utf-8").splitlines()]
    write_jsonl(folder / "chats.jsonl", chats * 400)
    return folder


def test_the_repository_has_recipes_for_each_stage() -> None:
    assert {path.parent.name for path in RECIPES} == {"pretrain", "continue", "sft", "lora"}
    assert len(RECIPES) >= 8


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_shipped_recipe_can_be_planned(path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With small data in the place of its own, and a model of its size for the small vocabulary."""
    room = ROOM.get(path.stem.rpartition("-")[2])
    dry_run(with_small_data(load_recipe([path]), folder), folder / "run", None, room)
    said = capsys.readouterr().out
    assert "every shape fits; nothing was allocated" in said
    if room is not None:
        line = next(line for line in said.splitlines() if line.startswith("  in all"))
        assert line.endswith(": fits"), f"{path}: {line}"


def with_small_data(recipe: Recipe, folder: Path) -> Recipe:
    """`recipe` over data of the tiny tokenizer; sources, weights, lengths and batches are its own."""
    changed: dict[str, Any] = recipe_data(recipe)
    vocab_size = tiny_tokenizer().vocab_size
    if changed["stage"] == "sft":
        changed["data"] |= {"sft": [str(folder / "chats.jsonl")], "template": "aquila-v1"}
    else:
        many = str(folder / "many")
        mix = [{**source, "path": many, "fim_rate": 0} for source in changed["data"]["mix"]]  # no marks in this one
        path = None if mix else many
        changed["data"] |= {"path": path, "mix": mix, "validation": [], "validation_fraction": 0}
    if changed["init"]["checkpoint"] is None:
        model = changed["model"]
        changed["model"] = {**(model if isinstance(model, dict) else {"base": model}), "vocab_size": vocab_size}
        changed["tokenizer"] = str(folder / "tokenizer")
    else:
        name = changed["init"]["checkpoint"].rpartition("/")[2]
        config = preset("tiny" if name == "pretrain" else name).model_copy(update={"vocab_size": vocab_size})
        changed["init"] = {"checkpoint": str(checkpoint_without_bytes(folder / name, config))}
    return Recipe.model_validate(changed)


def checkpoint_without_bytes(path: Path, config: ModelConfig) -> Path:
    """A folder of Hugging Face whose weights are a hole in a file: of the right size, and no block of the disk."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(to_hugging_face(config, "bfloat16")), encoding="utf-8")
    tiny_tokenizer().save(path)
    entries, end = {}, 0
    for name, shape in expected_tensors(config).items():
        start, end = end, end + 2 * prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return path


def test_a_plan_for_other_accelerators_takes_their_memory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_of(folder, parallel={"precision": "bf16"})
    for memory, said in ((None, "taken to have 80 GiB"), ("24GiB", "of 24 GiB: fits"), ("100MB", "does not fit")):
        dry_run(recipe, folder / "run", None, memory)
        assert said in capsys.readouterr().out
    assert parse_size("24GB") < parse_size("24GiB")
