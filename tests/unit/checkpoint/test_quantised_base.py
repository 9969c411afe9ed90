"""The base under QLoRA, filled from files: their own blocks where they have them, else rounded."""

from pathlib import Path

import numpy as np
import pytest
import torch

from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.packed_writer import quantise
from aquila.checkpoint.quantised_base import fill_quantised
from aquila.errors import CheckpointError
from aquila.model.quantised import quantise_base, quantised_weights
from aquila.model.transformer import Transformer
from checkpoint_parts import export, random_tensors, tiny_config, write

CONFIG = tiny_config(intermediate_size=80)  # rows of down_proj are no whole blocks


def filled(tensors: dict, format_name: str) -> dict[str, np.ndarray]:
    """The values of each quantised matrix."""
    with torch.device("meta"):
        model = Transformer(CONFIG)
    quantise_base(model, format_name)
    model.to_empty(device="cpu")
    taken = fill_quantised(model, tensors)
    assert len(taken) == 14
    assert all(name.startswith("model.layers.") for name in taken)
    return {name: weight.dequantise(torch.float32).numpy() for name, weight in quantised_weights(model)}


@pytest.mark.parametrize("format_name", ["w4", "w4m", "w8"])
def test_a_file_in_the_format_is_taken_over_bit_for_bit(tmp_path: Path, format_name: str):
    source = write(export(CONFIG), tmp_path / "model", "native")
    checkpoint = open_checkpoint(quantise(source, tmp_path / "model.aqw", to=format_name))
    for name, values in filled(checkpoint.tensors, format_name).items():
        np.testing.assert_array_equal(values, checkpoint.tensors[name].numpy(), err_msg=name)


def test_ggufs_blocks_with_reordered_rows_are_taken_over(tmp_path: Path):
    path = write(export(CONFIG), tmp_path / "model.gguf", "gguf", "q8_0")
    checkpoint = open_checkpoint(path)
    found = filled(checkpoint.tensors, "w8")
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"):
        np.testing.assert_array_equal(found[name], checkpoint.tensors[name].numpy(), err_msg=name)


@pytest.mark.parametrize(("format_name", "bound"), [("w4", 0.11), ("w4m", 0.1), ("w8", 0.006)])
def test_plain_weights_are_rounded(format_name: str, bound: float):
    tensors = random_tensors(CONFIG, "bf16")
    for name, values in filled(tensors, format_name).items():
        exact = tensors[name].numpy(np.dtype(np.float32))
        assert 0 < np.sqrt(np.square(values - exact).mean() / np.square(exact).mean()) < bound, name


def test_damaged_weights_are_named():
    tensors = random_tensors(CONFIG)
    name = "model.layers.1.self_attn.k_proj.weight"
    assert tensors[name].mapped is not None
    tensors[name].mapped[3, 4] = np.nan
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.k_proj\.weight: the value nan does not fit w4"):
        filled(tensors, "w4")
