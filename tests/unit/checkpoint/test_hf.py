"""Hugging Face folders: shards, tied heads, configs that must be refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aquila.checkpoint.hf import write_hf
from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.safetensors_file import write_safetensors
from aquila.checkpoint.tensors import DTYPES, from_array
from aquila.errors import AquilaError, CheckpointError, ConfigError
from checkpoint_parts import assert_equal, export, random_tensors, tiny_config, tiny_tokenizer, write


def _change_config(path: Path, **changes: Any) -> Path:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(export(tiny_config()), tmp_path / "model", "hf")


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": True},
        {"qkv_bias": True},
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32}},
        {"head_dim": 16, "bos_token_id": 1, "eos_token_ids": (2, 3), "pad_token_id": 0},
    ],
)
@pytest.mark.parametrize("kind", ["hf", "native"])
def test_config_and_tensors_survive(tmp_path: Path, changes: dict[str, Any], kind: str):
    config = tiny_config(**changes)
    checkpoint = open_checkpoint(write(export(config), tmp_path / "a", kind))
    assert checkpoint.config == config
    assert checkpoint.format == kind
    assert_equal(checkpoint.tensors, random_tensors(config))


def test_shards_hold_what_one_file_holds(tmp_path: Path):
    tmp_path.joinpath("a").mkdir()
    write_hf(export(tiny_config()), tmp_path / "a", max_shard_bytes=30_000)
    assert len(list((tmp_path / "a").glob("model-*-of-*.safetensors"))) > 2
    assert_equal(open_checkpoint(tmp_path / "a").tensors, random_tensors(tiny_config()))


@pytest.mark.parametrize("name", ["model-00002-of-00009.safetensors", "../model.safetensors", "/etc/passwd"])
def test_an_index_that_names_other_files_is_refused(folder: Path, name: str):
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="which is not in the folder"):
        open_checkpoint(folder)


def test_a_torch_file_serves_where_there_are_no_safetensors(folder: Path):
    state = {name: torch.from_numpy(tensor.numpy()) for name, tensor in random_tensors(tiny_config()).items()}
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert_equal(open_checkpoint(folder).tensors, random_tensors(tiny_config()))


@pytest.mark.parametrize("same", [True, False])
def test_a_tied_head_may_be_stored_only_as_what_it_is(folder: Path, same: bool):
    tensors = random_tensors(tiny_config(tie_word_embeddings=True))
    head = tensors["model.embed_tokens.weight"].numpy() + (0 if same else 1)
    stored = tensors | {"lm_head.weight": from_array(head)}
    write_safetensors(folder / "model.safetensors", stored, DTYPES["fp32"], lambda n: None)
    _change_config(folder, tie_word_embeddings=True)
    if same:
        assert "lm_head.weight" not in open_checkpoint(folder).tensors
    else:
        with pytest.raises(CheckpointError, match=r"tie_word_embeddings is true but lm_head\.weight differs"):
            open_checkpoint(folder)


def test_all_tensors_that_do_not_fit_are_listed(folder: Path):
    """The failure of `strict=False`: a model of noise that nobody notices."""
    _change_config(folder, num_hidden_layers=3, intermediate_size=64)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    message = str(caught.value)
    assert "9 missing: model.layers.2.input_layernorm.weight [32]" in message
    assert "6 of wrong shape: model.layers.0.mlp.gate_proj.weight is [96, 32], expected [64, 32]" in message
    assert message.count("model.layers.2") == 8
    _change_config(folder, num_hidden_layers=1, intermediate_size=96)
    with pytest.raises(CheckpointError, match=r"9 unexpected: model\.layers\.1\."):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt_neox"}, "model_type 'gpt_neox' is not a Llama-shaped architecture"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: .*finite"),
        ({"rope_parameters": "none"}, "rope_parameters 'none' is not a kind of scaling"),
        ({"rope_scaling": {"type": ["linear"]}}, "rope_scaling .* is not a kind of scaling"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope scaling 'yarn' is not supported"),
        ({"hidden_size": 1 << 40}, "hidden_size"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"vocab_size": None}, "vocab_size"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"model_type": "mistral", "sliding_window": 16}, "sliding_window 16 is not supported"),
    ],
)
def test_configs_that_describe_no_model_of_ours_are_refused(folder: Path, changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=rf"config\.json: .*{message}"):
        open_checkpoint(_change_config(folder, **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "llama"', "9" * 5000, "[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(folder: Path, text: str):
    (folder / "config.json").write_text(text)
    with pytest.raises(AquilaError, match=r"config\.json"):
        open_checkpoint(folder)


def test_end_tokens_of_the_generation_config_count_too(folder: Path):
    """Chat models name their end of turn there only; without it they never stop."""
    _change_config(folder, eos_token_id=2)
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 2]}')
    assert open_checkpoint(folder).config.eos_token_ids == (2, 5)


def test_class_defaults_of_aquila_configs_give_way_to_the_tokenizer(tmp_path: Path):
    """0, 1 and 2 are ordinary tokens of Aquila's vocabulary."""
    tokenizer = tiny_tokenizer()
    path = write(export(tiny_config(), tokenizer=tokenizer), tmp_path / "a", "hf")
    (path / "generation_config.json").unlink()
    _change_config(path, model_type="aquila", bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config = open_checkpoint(path).config
    assert (config.bos_token_id, config.eos_token_ids) == (tokenizer.bos_token_id, tuple(tokenizer.eos_token_ids))


def test_a_folder_without_weights_says_what_is_missing(folder: Path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights found"):
        open_checkpoint(folder)
