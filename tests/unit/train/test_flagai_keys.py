"""The YAML files of the original become recipes; each key says how it was read."""

from pathlib import Path
from typing import Any

import pytest

from aquila.config import read_yaml_text
from aquila.errors import ConfigError
from aquila.train.flagai_keys import KEYS, Translation, is_flagai, translate

PRETRAIN = """
batch_size: 10
gradient_accumulation_steps: 1
lr: 3.0e-4
warm_up: 0.01
save_interval: 1000
log_interval: 10
bmt_loss_scale: 131072
save_optim: True
save_rng: True
eps: 1.e-8
"""
CODE = """
batch_size: 10
gradient_accumulation_steps: 1
lr: 2.0e-5
warm_up: 0.01
save_interval: 1000
log_interval: 10
bmt_loss_scale: 524288
bmt_cpu_offload: False
bmt_pre_load: False
save_optim: True
save_rng: True
load_optim: False
resume_dataset: False
eps: 1.e-8
"""
CHAT = """
batch_size: 1
gradient_accumulation_steps: 1
lr: 3.0e-4
warm_up: 0.01
warm_up_iters: 100
save_interval: 300
log_interval: 10
bmt_pre_load: True
lora: False
enable_sft_dataset_dir: ./datasets/
enable_sft_dataset_file: sft_samples.jsonl
enable_sft_dataset_val_file: sft_val.jsonl
"""
CHAT_LORA = """
batch_size: 4
gradient_accumulation_steps: 2
epochs: 10
lr: 4.0e-5
warm_up_iters: 200
save_interval: 500
bmt_lr_decay_style: cosine
bmt_pre_load: True
lora: True
lora_r: 16
lora_alpha: 32
enable_sft_dataset_dir: ./datasets/
enable_sft_dataset_file: sft_samples.jsonl
"""
SQL_SFT = """
epochs: 3
batch_size: 4
lr: 9.65e-6
bmt_lr_decay_style: linear
warm_up: 0.1
weight_decay: 0.1
enable_sft_conversations_dataset_v2: True
enable_sft_dataset_file: sql.jsonl
enable_flash_attn_models: True
bmt_pre_load: True
"""
SQL_PRETRAIN = """
epochs: 3
batch_size: 8
lr: 2.0e-7
enable_pretrain_dataset_prefix: /data/sql
pretrain_data: sql_text_document
enable_flashattn: True
bmt_pre_load: True
"""
# What bmtrain_mgpu.sh passed for what the file leaves out
SCRIPT = {
    "gradient_accumulation_steps": 1,
    "epochs": 1,
    "weight_decay": 0.1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "schedule": "cosine",
    "min_lr_ratio": 0.1,
}


def read(text: str, model: str = "aquilacode-7b-nv") -> Translation:
    return translate(read_yaml_text(text, where="x.yaml"), where="x.yaml", model=model)


def test_pretraining():
    assert read(PRETRAIN, "Aquila-7B").recipe == {
        "stage": "pretrain",
        "model": "aquila-7b",
        "tokenizer": "Aquila-7B",
        "train": {
            **SCRIPT,
            "micro_batch_size": 10,
            "lr": 3e-4,
            "warmup_steps": 0.01,
            "loss_scale": 131072.0,
            "eps": 1e-8,
        },
        "save": {"save_interval": 1000},
        "log": {"log_interval": 10},
    }


def test_code_starts_from_random_weights_and_says_so():
    found = read(CODE)
    assert found.recipe["stage"] == "pretrain"
    assert found.recipe["model"] == "aquilacode-7b-nv"
    assert found.recipe["parallel"] == {"offload": False}
    assert "bmt_pre_load: False -> training starts from random weights" in found.lines


def test_chat():
    assert read(CHAT, "aquilachat-7b").recipe == {
        "stage": "sft",
        "init": {"checkpoint": "aquilachat-7b"},
        "data": {"sft": ["datasets/sft_samples.jsonl"], "validation": ["datasets/sft_val.jsonl"]},
        "train": {**SCRIPT, "micro_batch_size": 1, "lr": 3e-4, "warmup_steps": 100},
        "save": {"save_interval": 300},
        "log": {"log_interval": 10},
    }


def test_chat_with_an_adapter():
    """Warm-up was counted in micro-batches: 200 of them are 100 steps of two."""
    recipe = read(CHAT_LORA, "aquilachat-7b").recipe
    assert recipe["lora"] == {"r": 16, "alpha": 32, "dropout": 0.05, "targets": ["q_proj", "v_proj"]}
    assert recipe["stage"] == "sft"
    assert recipe["train"]["epochs"] == 10
    assert recipe["train"]["gradient_accumulation_steps"] == 2
    assert recipe["train"]["warmup_steps"] == 100


def test_sql():
    sft, pretrain = read(SQL_SFT).recipe, read(SQL_PRETRAIN).recipe
    assert sft["data"] == {"sft": ["sql.jsonl"]}
    assert (sft["train"]["schedule"], sft["train"]["min_lr_ratio"]) == ("linear", 0.0)
    assert pretrain["data"] == {"path": "/data/sql/sql_text_document"}
    assert pretrain["stage"] == "continue"
    assert pretrain["train"]["warmup_steps"] == 0.2


@pytest.mark.parametrize("text", [PRETRAIN, CODE, CHAT, CHAT_LORA, SQL_SFT, SQL_PRETRAIN])
def test_one_line_for_each_key(text: str):
    data = read_yaml_text(text, where="x.yaml")
    assert is_flagai(data)
    lines = read(text).lines
    for key in data:
        assert len([line for line in lines if line.startswith(f"{key}: ") and " -> " in line]) == 1
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("text", [PRETRAIN, CODE, CHAT, CHAT_LORA, SQL_SFT, SQL_PRETRAIN])
def test_what_comes_out_is_a_recipe(text: str):
    from aquila.train.recipe import Recipe

    tree: dict[str, Any] = read(text).recipe
    tree.setdefault("data", {"path": "demo_text_document"})
    Recipe.model_validate(tree)


def test_the_lines_say_what_the_original_really_did():
    lines = "\n".join(read(PRETRAIN).lines)
    assert "warm_up: 0.01 -> train.warmup_steps: 0.01 (the fraction of all steps that warms up" in lines
    assert "epochs: 1, not in the file: as the original's start script -> train.epochs: 1" in lines
    assert "save_optim: True -> passed over: checkpoints are always complete" in lines


def test_weights_are_taken_from_the_folder_of_the_original(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints_in" / "aquilachat-7b").mkdir(parents=True)
    assert read(CHAT, "aquilachat-7b").recipe["init"] == {"checkpoint": "checkpoints_in/aquilachat-7b"}


def test_training_that_was_stopped_goes_on_from_its_weights(tmp_path: Path):
    (tmp_path / "latest_iteration.txt").write_text("3000\n", encoding="utf-8")
    recipe = read(f"{PRETRAIN}load_dir: {tmp_path}\n").recipe
    assert recipe["init"] == {"checkpoint": f"{tmp_path}/3000"}
    assert recipe["stage"] == "continue"


def test_no_warm_up_was_no_schedule():
    recipe = read(PRETRAIN.replace("warm_up: 0.01", "warm_up: 0")).recipe
    assert recipe["train"]["schedule"] == "constant"
    assert recipe["train"]["warmup_steps"] == 0


def test_half_precision_and_checkpointing():
    recipe = read("fp16: True\ncheckpoint_activations: True\nbmt_cpu_offload: 'True'\nseed: 7\n").recipe
    assert recipe["parallel"] == {"precision": "fp16", "activation_checkpointing": "full", "offload": True}
    assert recipe["train"]["seed"] == 7


def test_tensor_parallel_of_deepspeed():
    recipe = read("env_type: deepspeed+mpu\nmodel_parallel_size: 2\ndeepspeed_config: ds.json\n").recipe
    assert recipe["parallel"] == {"tp": 2}


def test_what_belongs_to_the_launch():
    found = translate(
        {"lr": 1e-5, "master_port": 17750, "experiment_name": "mine", "model_name": "aquila-7b"}, where="x.yaml"
    )
    assert (found.master_port, found.experiment, found.model) == (17750, "mine", "aquila-7b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1e-4\nbatchsize: 4\n", "'batchsize' is not a key of the original's files; did you mean 'batch_size'?"),
        ("lr: fast\n", "lr: expected a number, got 'fast'"),
        ("batch_size: 2.5\n", "batch_size: expected a whole number, got 2.5"),
        ("lora: yes\n", "lora: expected true or false, got 'yes'"),
        ("warm_up: 1.5\n", "warm_up: 1.5 is not a fraction of the run below 1"),
        ("lora: True\nlora_target_modules: [wx]\n", "lora: lora_target_modules: 'wx' is not a layer"),
        ("skip_iters: 100\n", "skip_iters: 100 batches cannot be skipped"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, message: str):
    with pytest.raises(ConfigError) as error:
        read(text)
    assert str(error.value).startswith(f"x.yaml: {message}")


def test_a_file_without_a_model_needs_one():
    with pytest.raises(ConfigError, match="says nothing of the model; name it after the file"):
        translate({"lr": 1e-5}, where="x.yaml")


def test_recipes_of_ours_are_not_taken_for_the_originals():
    assert not is_flagai({"stage": "sft", "lora": {"r": 8}, "data": {}, "train": {}})
    assert not is_flagai({})
    assert is_flagai({"lora": True})


def test_every_key_of_the_nine_in_the_readme_is_known():
    nine = "batch_size gradient_accumulation_steps lr warm_up save_interval log_interval lora enable_sft_dataset_dir"
    assert {*nine.split(), "enable_sft_dataset_file"} <= KEYS.keys()
