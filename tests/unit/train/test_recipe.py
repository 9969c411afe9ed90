"""Recipes: what is given wrong is named, and the resolved recipe says the same as the file."""

import json
from pathlib import Path

import pytest

from aquila.errors import AquilaError, ConfigError
from aquila.train.plan import make_plan
from aquila.train.recipe import load_recipe, recipe_data
from aquila.train.run_dir import open_recipe, save_recipe
from train_parts import recipe_of, run_folder, write_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("recipes"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", r"train.lrr: unknown key; did you mean 'lr'\?"),
        ("train.steps=0", "train.steps: must be at least 1, got 0"),
        ("train.epochs=1", "train: steps and epochs are given; give exactly one"),
        ("train.warmup_steps=1.5", "train: warmup_steps: 1.5 is neither a fraction below 1 nor a whole number"),
        ("parallel.precision=fp8", "parallel.precision: expected 'fp32' | 'bf16' | 'fp16', got 'fp8'"),
        ("stage=sft", "init.checkpoint: stage sft starts from trained weights"),
        ("tokenizer=null", "tokenizer: is required"),
        ("lora={r: 8}", "an adapter needs trained weights"),
        (
            "lora={targets: [q_prj]}",
            "lora.targets.0: expected 'q_proj' | 'k_proj' | 'v_proj' | 'o_proj' | 'gate_proj' | 'up_proj' | 'down_proj'"
            ", got 'q_prj'",
        ),
        ("lora={targets: []}", r"lora.targets: .* at least 1 item"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, override: str, message: str) -> None:
    path = write_recipe(folder)
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        load_recipe([path], [override])


@pytest.mark.parametrize(
    ("changes", "world", "message"),
    [
        ({"model__vocab_size": 250}, 1, "model: has 250 ids, the tokenizer .digest [0-9a-f]{16}. has 320"),
        (
            {"train__global_batch_size": 4000, "train__micro_batch_size": "auto"},
            1,
            "4000 sequences is larger than the data",
        ),
        (
            {"train__global_batch_size": 9, "train__micro_batch_size": "auto"},
            2,
            "9 sequences cannot be shared equally by 2",
        ),
        ({"train__micro_batch_size": 3}, 1, "micro_batch_size: 3 does not make up the 8 sequences"),
        ({"train__warmup_steps": 9}, 1, "9 steps of warm-up are more than the 8 steps"),
        ({"data__sequence_length": 256}, 1, "sequence_length: 256 is longer than the 128 positions of the model"),
        ({"parallel": {"tp": 3}}, 1, "tp 3 does not divide 1 process"),
        ({"parallel": {"tp": 4}}, 4, "parallel.tp: 4 does not divide num_key_value_heads 2"),
        ({"model": "tinny"}, 1, "did you mean 'tiny'"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_what_to_change(
    folder: Path, changes: dict, world: int, message: str
) -> None:
    with pytest.raises(AquilaError, match=message):
        make_plan(recipe_of(folder, **changes), world)


def test_an_epoch_shorter_than_a_step_is_refused(folder: Path) -> None:
    train = {"epochs": 0.01, "global_batch_size": 8}
    with pytest.raises(ConfigError, match=r"0.01 epochs of \d+ sequences are less than one step of 8"):
        make_plan(recipe_of(folder, train=train), 1)


def test_a_tokenizer_other_than_the_checkpoints_is_refused_with_both_digests(folder: Path, tmp_path: Path) -> None:
    """The original trained a model on the ids of another vocabulary."""
    from parts import tiny_checkpoint, tiny_tokenizer

    tiny_checkpoint(tmp_path / "base")
    tiny_tokenizer(300).save(tmp_path / "other")
    recipe = recipe_of(
        folder,
        stage="continue",
        model=None,
        init={"checkpoint": str(tmp_path / "base")},
        tokenizer=str(tmp_path / "other"),
    )
    with pytest.raises(
        ConfigError, match=r"has digest [0-9a-f]{16}, the weights of .*base were trained with [0-9a-f]{16}"
    ):
        make_plan(recipe, 1)


def test_another_model_than_the_checkpoints_is_refused(folder: Path, tmp_path: Path) -> None:
    from parts import tiny_checkpoint

    tiny_checkpoint(tmp_path / "base")
    recipe = recipe_of(
        folder, stage="continue", tokenizer=None, model={"base": "tiny"}, init={"checkpoint": str(tmp_path / "base")}
    )
    with pytest.raises(
        ConfigError, match=r"model: is not the model of .*base: model.embed_tokens.weight would be \[512, 64\]"
    ):
        make_plan(recipe, 1)


def test_batch_sizes_follow_from_each_other(folder: Path) -> None:
    train = {"steps": 1, "micro_batch_size": 2, "gradient_accumulation_steps": 3}
    plan = make_plan(recipe_of(folder, train=train), 2)
    assert (plan.global_batch_size, plan.micro_batch_size, plan.accumulation) == (12, 2, 3)
    assert plan.recipe.train.global_batch_size == 12
    train = {"steps": 1, "global_batch_size": 12, "gradient_accumulation_steps": 3}
    assert make_plan(recipe_of(folder, train=train), 2).micro_batch_size == 2


def test_tokens_and_epochs_become_steps(folder: Path) -> None:
    by_tokens = {"num_tokens": 1e3, "global_batch_size": 8}
    assert make_plan(recipe_of(folder, train=by_tokens), 1).steps == 4  # of 8 x 32 tokens
    plan = make_plan(recipe_of(folder, train={"epochs": 2, "global_batch_size": 8}), 1)
    assert plan.steps == 2 * plan.loader.num_sequences // 8


def test_a_saved_recipe_reads_back_as_the_same(folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe([write_recipe(folder)], ["train.lr=1e-4", "eval.prompts=['汽车EDR是什么', 'a: b # c']"])
    save_recipe(recipe, tmp_path)
    again, run_dir = open_recipe(tmp_path, [])
    assert recipe_data(again) == recipe_data(recipe)
    assert run_dir == tmp_path


def test_a_run_goes_on_with_its_own_recipe_only(folder: Path, tmp_path: Path) -> None:
    path = write_recipe(folder, run_dir=str(tmp_path / "run"))
    recipe, run_dir = open_recipe(path, [])
    save_recipe(recipe, run_dir)
    assert open_recipe(path, ["parallel.compile=true", "log.log_interval=1"])[1] == run_dir
    with pytest.raises(
        ConfigError, match=r"was begun with another recipe: train.lr 0.003 -> 0.1; give this one its own"
    ):
        open_recipe(path, ["train.lr=0.1"])
    assert open_recipe(run_dir, ["train.lr=0.1"])[0].train.lr == 0.1


def test_a_template_that_the_checkpoint_filled_in_is_no_other_recipe(folder: Path, tmp_path: Path) -> None:
    from parts import tiny_checkpoint

    base, chats, run_dir = tmp_path / "base", str(folder / "chats.jsonl"), tmp_path / "run"
    tiny_checkpoint(base)
    manifest = json.loads((base / "manifest.json").read_text(encoding="utf-8"))
    (base / "manifest.json").write_text(json.dumps({**manifest, "chat_template": "aquila-v1"}), encoding="utf-8")
    changes = {"stage": "sft", "model": None, "tokenizer": None, "init": {"checkpoint": str(base)}}
    changes["data"] = {"sft": chats, "sequence_length": 64}
    path = write_recipe(folder, "chats.yaml", **changes, run_dir=str(run_dir))
    plan = make_plan(open_recipe(path, [])[0], 1)
    assert plan.recipe.data.template == "aquila-v1"
    save_recipe(plan.recipe, run_dir)
    assert make_plan(open_recipe(path, [])[0], 1).loader.digest == plan.loader.digest
    with pytest.raises(ConfigError, match=r"another recipe: data.template 'aquila-v1' -> 'chatml'"):
        open_recipe(path, ["data.template=chatml"])


def test_every_shipped_recipe_is_valid() -> None:
    from parts import ROOT

    recipes = sorted((ROOT / "recipes").glob("*/*.yaml"))
    assert len(recipes) >= 8
    for path in recipes:
        load_recipe([path])
