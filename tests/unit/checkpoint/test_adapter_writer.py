"""Adapter folders that we write: read back they are the same, and they appear whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest

from adapter_parts import adapter_tensors
from aquila.checkpoint.adapter import PREFIX, open_adapter, read_adapter
from aquila.checkpoint.adapter_writer import AdapterSettings, trained_pairs, write_adapter
from aquila.checkpoint.names import interleaved_rows
from aquila.checkpoint.tensors import from_array, take_rows
from aquila.errors import CheckpointError, ConfigError
from checkpoint_parts import tiny_config

CONFIG = tiny_config()
SETTINGS = AdapterSettings(r=4, alpha=6.5, dropout=0.1, base_name="a-model")
TARGETS = ("q_proj", "k_proj", "down_proj")


def trained() -> dict:
    """Tensors named as in a model in training, beside one of its base."""
    found = {
        name.removeprefix(PREFIX).removesuffix(".weight"): tensor
        for name, tensor in adapter_tensors(CONFIG, TARGETS).items()
    }
    return {**found, "model.norm.weight": from_array(np.ones(32, np.float32))}


def test_what_is_written_is_read_back(tmp_path: Path):
    pairs = trained_pairs(trained())
    folder = write_adapter(tmp_path / "a", CONFIG, pairs, SETTINGS)
    found = read_adapter(folder, CONFIG)
    assert found.matrices.keys() == pairs.keys()
    for name, (down, up) in pairs.items():
        np.testing.assert_array_equal(found.matrices[name].down.numpy(), down.numpy())
        np.testing.assert_array_equal(found.matrices[name].up.numpy(), up.numpy())
        assert found.matrices[name].scale == 6.5 / 4
    assert open_adapter(folder).base_name == "a-model"
    raw = json.loads((folder / "adapter_config.json").read_text())
    assert (raw["r"], raw["lora_alpha"], raw["lora_dropout"]) == (4, 6.5, 0.1)
    assert raw["target_modules"] == list(TARGETS)
    assert sorted(each.name for each in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_an_interleaved_model_writes_rows_as_peft_has_them(tmp_path: Path):
    interleaved = CONFIG.model_copy(update={"rope_interleaved": True})
    plain = trained_pairs(trained())
    heads = {"q_proj": 4, "k_proj": 2}
    pairs = {
        name: (down, take_rows(up, interleaved_rows(heads[name[-6:]], 8)) if name[-6:] in heads else up)
        for name, (down, up) in plain.items()
    }
    folder = write_adapter(tmp_path / "a", interleaved, pairs, SETTINGS)
    for config, expected in ((CONFIG, plain), (interleaved, pairs)):
        found = read_adapter(folder, config).matrices
        for name, (_, up) in expected.items():
            np.testing.assert_array_equal(found[name].up.numpy(), up.numpy(), err_msg=name)


def test_nothing_is_written_over_and_nothing_is_left_half(tmp_path: Path):
    folder = write_adapter(tmp_path / "a", CONFIG, trained_pairs(trained()), SETTINGS)
    with pytest.raises(ConfigError, match="a: exists already; name another folder or remove it first"):
        write_adapter(folder, CONFIG, trained_pairs(trained()), SETTINGS)

    def unreadable(start: int, stop: int) -> np.ndarray:
        raise CheckpointError("the disk is gone")

    pairs = trained_pairs(trained())
    name, (down, up) = next(iter(pairs.items()))
    pairs[name] = (down, type(up)(up.shape, up.dtype, unreadable))
    with pytest.raises(CheckpointError, match="the disk is gone"):
        write_adapter(tmp_path / "b", CONFIG, pairs, SETTINGS)
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
