"""FlagAI folders in all the shapes they come in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aquila.checkpoint.names import FLAGAI, interleaved_rows, reorder_rotary
from aquila.checkpoint.open import open_checkpoint
from aquila.errors import CheckpointError, ConfigError
from aquila.model.config import ModelConfig, ffn_size
from checkpoint_parts import assert_equal, export, random_tensors, tiny_config, tiny_tokenizer, write

CONFIG = {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "vocab_size": 320,
    "multiple_of": 96,
    "norm_eps": 1e-5,
    "max_seq_len": 64,
    "flash_atten": True,
}


def _state(config: ModelConfig) -> dict[str, torch.Tensor]:
    """The state dict FlagAI would hold for the same random weights."""
    tensors = reorder_rotary(random_tensors(config), config, interleaved_rows)
    return {FLAGAI.from_canonical(name): torch.from_numpy(tensor.numpy()) for name, tensor in tensors.items()}


def _folder(path: Path, files: dict[str, Any], **changes: Any) -> Path:
    (path / "config.json").write_text(json.dumps(CONFIG | changes))
    for name, state in files.items():
        torch.save(state, path / name)
    return path


def test_a_plain_folder_reads_as_canonical_tensors(tmp_path: Path):
    checkpoint = open_checkpoint(_folder(tmp_path, {"pytorch_model.bin": {"module": _state(tiny_config())}}))
    assert checkpoint.format == "flagai"
    assert checkpoint.config == tiny_config()
    assert_equal(checkpoint.tensors, random_tensors(tiny_config()))


def test_shards_read_as_one(tmp_path: Path):
    state = list(_state(tiny_config()).items())
    files = {"pytorch_model-00.bin": dict(state[:7]), "pytorch_model-01.bin": dict(state[7:])}
    assert_equal(open_checkpoint(_folder(tmp_path, files)).tensors, random_tensors(tiny_config()))


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path):
    state = _state(tiny_config())
    files = {"pytorch_model-00.bin": state, "pytorch_model-01.bin": {"norm.weight": state["norm.weight"]}}
    with pytest.raises(CheckpointError, match=r"pytorch_model-01\.bin: 'norm\.weight' is in another file too"):
        open_checkpoint(_folder(tmp_path, files))


def _slices(state: dict[str, torch.Tensor], ranks: int) -> list[dict[str, torch.Tensor]]:
    """As Megatron cuts: embedding, wo and w2 by columns, the other matrices by rows, norms copied."""
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(ranks)]
    for name, weight in state.items():
        axis = 1 if any(key in name for key in ("tok_embeddings", "wo", "w2")) else 0
        pieces = weight.chunk(ranks, axis) if weight.dim() == 2 else [weight] * ranks
        for part, piece in zip(parts, pieces, strict=True):
            part[name] = piece.clone()
    return parts


def test_tensor_parallel_slices_read_as_one(tmp_path: Path):
    slices = _slices(_state(tiny_config()), 2)
    files = {f"pytorch_model_{rank:02d}.bin": part for rank, part in enumerate(slices)}
    assert_equal(open_checkpoint(_folder(tmp_path, files)).tensors, random_tensors(tiny_config()))


def test_a_missing_slice_is_named(tmp_path: Path):
    slices = _slices(_state(tiny_config()), 2)
    files = {"pytorch_model_00.bin": slices[0], "pytorch_model_02.bin": slices[1]}
    with pytest.raises(CheckpointError, match=r"slices of ranks \[0, 2\] found"):
        open_checkpoint(_folder(tmp_path, files))


def test_the_flash_attention_variant_reads_as_the_plain_one(tmp_path: Path):
    """Fused q, k, v, and up before gate in the fused feed-forward."""
    plain = _state(tiny_config())
    fused = {
        "transformer.embeddings.word_embeddings.weight": plain["tok_embeddings.weight"],
        "transformer.ln_f.weight": plain["norm.weight"],
        "lm_head.weight": plain["output.weight"],
    }
    for layer in range(2):
        get = {
            key: plain[f"layers.{layer}.{key}.weight"]
            for key in (
                "attention.wq",
                "attention.wk",
                "attention.wv",
                "attention.wo",
                "feed_forward.w1",
                "feed_forward.w2",
                "feed_forward.w3",
                "attention_norm",
                "ffn_norm",
            )
        }
        prefix = f"transformer.layers.{layer}."
        fused |= {
            f"{prefix}mixer.Wqkv.weight": torch.cat([get["attention.wq"], get["attention.wk"], get["attention.wv"]]),
            f"{prefix}mixer.out_proj.weight": get["attention.wo"],
            f"{prefix}mlp.fc1.weight": torch.cat([get["feed_forward.w3"], get["feed_forward.w1"]]),
            f"{prefix}mlp.fc2.weight": get["feed_forward.w2"],
            f"{prefix}norm1.weight": get["attention_norm"],
            f"{prefix}norm2.weight": get["ffn_norm"],
        }
    checkpoint = open_checkpoint(_folder(tmp_path, {"pytorch_model.bin": fused}))
    assert_equal(checkpoint.tensors, random_tensors(tiny_config()))


def test_problems_are_told_in_the_names_of_the_file(tmp_path: Path):
    state = _state(tiny_config())
    state["layers.0.attention.rope"] = state.pop("layers.1.ffn_norm.weight")
    state["norm.weight"] = torch.ones(5)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(_folder(tmp_path, {"pytorch_model.bin": state}))
    message = str(caught.value)
    assert "1 missing: layers.1.ffn_norm.weight [32]" in message
    assert "1 unexpected: layers.0.attention.rope (unknown)" in message
    assert "1 of wrong shape: norm.weight is [5], expected [32]" in message


@pytest.mark.parametrize("name", ["dim", "multiple_of", "norm_eps", "max_seq_len"])
def test_fields_that_shape_the_model_must_be_there(tmp_path: Path, name: str):
    config = {key: value for key, value in CONFIG.items() if key != name or key == "dim"}
    config["n_layers"] = 2
    if name == "dim":
        config["dim"] = "wide"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=rf"config\.json: .*{name}"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("dim", "multiple_of", "multiplier", "width"),
    [(4096, 256, 1.0, 11008), (6144, 4096, 1.3, 24576), (8192, 4096, 1.3, 28672)],
)
def test_feed_forward_widths_of_the_released_models(dim: int, multiple_of: int, multiplier: float, width: int):
    assert ffn_size(dim, multiple_of, multiplier) == width


@pytest.mark.parametrize("width", [32, 64, 85, 96, 256, 352])
@pytest.mark.parametrize("tied", [True, False])
def test_what_we_write_we_read(tmp_path: Path, width: int, tied: bool):
    """Any feed-forward width can be said with multiple_of and a multiplier; a tied head is stored twice."""
    config = tiny_config(intermediate_size=width, tie_word_embeddings=tied)
    checkpoint = open_checkpoint(write(export(config, "fp16"), tmp_path / "a", "flagai"))
    assert checkpoint.config == config
    assert_equal(checkpoint.tensors, random_tensors(config, "fp16"))
    state = torch.load(tmp_path / "a" / "pytorch_model.bin", weights_only=True)
    assert set(state) == set(_state(tiny_config()))


def test_the_tokenizer_travels_in_flagais_form(tmp_path: Path):
    tokenizer = tiny_tokenizer()
    path = write(export(tiny_config(), tokenizer=tokenizer), tmp_path / "a", "flagai")
    checkpoint = open_checkpoint(path)
    text = "def is_prime(n): 快速排序"
    assert checkpoint.load_tokenizer().encode(text) == tokenizer.encode(text)
    assert checkpoint.config.eos_token_ids == tuple(tokenizer.eos_token_ids)
    special = json.loads((path / "special_tokens_map.json").read_text())
    assert all("content" in entry for entry in special.values())
    assert (path / "merges.txt").is_file()
    assert isinstance(json.loads((path / "vocab.json").read_text()), dict)


@pytest.mark.parametrize(
    ("change", "obstacle"),
    [
        ({"qkv_bias": True}, "biases on q, k and v"),
        ({"rope_theta": 100000.0}, "rope_theta 100000"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"head_dim": 16}, "head_dim 16"),
    ],
)
def test_what_flagai_cannot_express_is_refused(tmp_path: Path, change: dict[str, Any], obstacle: str):
    with pytest.raises(ConfigError, match=f"FlagAI's model code does not know {obstacle}"):
        write(export(tiny_config(**change)), tmp_path / "a", "flagai")


def test_slices_that_do_not_join_are_refused(tmp_path: Path):
    slices = _slices(_state(tiny_config()), 2)
    slices[1]["layers.0.attention.wo.weight"] = torch.from_numpy(np.ones((7, 16), np.float32))
    files = {f"pytorch_model_{rank:02d}.bin": part for rank, part in enumerate(slices)}
    with pytest.raises(CheckpointError, match=r"layers\.0\.attention\.wo\.weight have shapes .* do not join"):
        open_checkpoint(_folder(tmp_path, files))
