"""PEFT folders: what is read, and what is refused because it would answer otherwise than in PEFT."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_parts import ALL, adapter_tensors, random_adapter, write_adapter
from aquila.checkpoint.adapter import read_adapter
from aquila.checkpoint.tensors import DTYPES, from_array
from aquila.errors import CheckpointError, ConfigError
from checkpoint_parts import tiny_config

CONFIG = tiny_config()
Q = "base_model.model.model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_pairs_come_under_the_names_of_their_matrices(tmp_path: Path, dtype: str):
    adapter = read_adapter(random_adapter(tmp_path / "a", CONFIG, ("q_proj", "down_proj"), dtype=dtype), CONFIG)
    assert sorted(adapter.matrices) == [
        f"model.layers.{layer}.{name}" for layer in (0, 1) for name in ("mlp.down_proj", "self_attn.q_proj")
    ]
    expected = adapter_tensors(CONFIG, ("q_proj", "down_proj"), dtype=dtype)
    pair = adapter.matrices["model.layers.1.self_attn.q_proj"]
    for half, tensor in (("A", pair.down), ("B", pair.up)):
        assert tensor.dtype == DTYPES[dtype]
        np.testing.assert_array_equal(tensor.numpy(), expected[f"{Q}.lora_{half}.weight"].numpy())
    assert adapter.num_elements == sum(tensor.num_elements for tensor in expected.values())


@pytest.mark.parametrize(("by_root", "scale"), [(False, 8 / 16), (None, 8 / 16), (True, 8 / 4)])
def test_the_scale_is_alpha_by_rank_or_by_its_root(tmp_path: Path, by_root: bool | None, scale: float):
    adapter = read_adapter(random_adapter(tmp_path / "a", CONFIG, rank=16, use_rslora=by_root), CONFIG)
    assert {pair.scale for pair in adapter.matrices.values()} == {scale}
    assert adapter.rank == 16


def test_a_part_of_the_layers_may_be_adapted(tmp_path: Path):
    tensors = {name: tensor for name, tensor in adapter_tensors(CONFIG).items() if ".layers.1." in name}
    path = write_adapter(tmp_path / "a", tensors, layers_to_transform=[1])
    assert {name.split(".")[2] for name in read_adapter(path, CONFIG).matrices} == {"1"}


def test_a_pattern_of_targets_leaves_it_to_the_tensors(tmp_path: Path):
    path = write_adapter(tmp_path / "a", adapter_tensors(CONFIG, ("v_proj",)), r".*\.v_proj")
    assert len(read_adapter(path, CONFIG).matrices) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, r"a/adapter_config\.json: peft_type 'IA3' is not supported; only LORA is"),
        ({"peft_type": None}, "peft_type None is not supported"),
        ({"use_dora": True}, r"use_dora True not supported; merge the adapter .*merge_and_unload"),
        (
            {"modules_to_save": ["lm_head", "embed_tokens"], "bias": "all"},
            r"bias 'all', modules_to_save \['lm_head', 'embed_tokens'\] not supported",
        ),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern {'q_proj': 2} not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out True not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' not supported"),
        ({"r": 0}, "r 0 is not a rank between 1 and 4096"),
        ({"r": "4"}, "r '4' is not a rank"),
        ({"r": True}, "r True is not a rank"),
        ({"lora_alpha": None}, "lora_alpha None is not a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan is not a number"),
        ({"use_rslora": "yes"}, "use_rslora 'yes' not true or false"),
        ({"target_modules": ["q_proj", "lm_head"]}, "target_modules lm_head not supported; known: down_proj"),
        ({"target_modules": ["q_prj"]}, "target_modules q_prj not supported; did you mean 'q_proj'"),
        ({"target_modules": [7]}, "target_modules 7 not supported"),
    ],
)
def test_other_kinds_of_adapters_are_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    path = random_adapter(tmp_path / "a", CONFIG, **changes)
    with pytest.raises(ConfigError, match=message):
        read_adapter(path, CONFIG)


@pytest.mark.parametrize(
    ("removed", "added", "message"),
    [
        ([f"{Q}.lora_B.weight"], [], r"half of a pair is missing: model\.layers\.1\.self_attn\.q_proj\.lora_A;"),
        ([], [f"{Q}.lora_magnitude_vector"], r"are no lora_A or lora_B weight: .*q_proj\.lora_magnitude_vector$"),
        ([], ["model.layers.1.self_attn.q_proj.lora_A.weight"], "are no lora_A or lora_B weight: model"),
        (
            [],
            [f"{Q.replace('1', '7')}.lora_{half}.weight" for half in "AB"],
            r"made for 'tiny', it adapts matrices .* not have: model\.layers\.7\.self_attn\.q_proj; give it to",
        ),
    ],
)
def test_tensors_that_fit_no_matrix_are_listed(tmp_path: Path, removed: list[str], added: list[str], message: str):
    tensors = adapter_tensors(CONFIG)
    for name in removed:
        del tensors[name]
    tensors |= {name: from_array(np.zeros((4, 32), np.float32)) for name in added}
    path = write_adapter(tmp_path / "a", tensors)
    with pytest.raises(CheckpointError, match=message):
        read_adapter(path, CONFIG)


def test_targets_and_tensors_name_the_same_matrices(tmp_path: Path):
    tensors = adapter_tensors(CONFIG, ("q_proj", "v_proj"))
    lacking = write_adapter(tmp_path / "a", tensors, ("q_proj", "v_proj", "o_proj"))
    with pytest.raises(CheckpointError, match="target_modules and tensors differ: o_proj without tensors"):
        read_adapter(lacking, CONFIG)
    with pytest.raises(CheckpointError, match="differ: v_proj not among target_modules"):
        read_adapter(write_adapter(tmp_path / "b", tensors, ("q_proj",)), CONFIG)


@pytest.mark.parametrize("changes", [{"hidden_size": 64}, {"intermediate_size": 64}, {"num_key_value_heads": 4}])
def test_an_adapter_of_another_shape_is_refused(tmp_path: Path, changes: dict[str, int]):
    path = random_adapter(tmp_path / "a", tiny_config(**{"head_dim": 8, **changes}))
    with pytest.raises(CheckpointError, match=r"made for 'tiny', .* rank 4 .* expected \[.*\]; .*its own model"):
        read_adapter(path, CONFIG)


def test_the_rank_is_that_of_the_tensors(tmp_path: Path):
    path = random_adapter(tmp_path / "a", CONFIG, r=8)
    with pytest.raises(CheckpointError, match=r"q_proj\.lora_A \[4, 32\], expected \[8, 32\]; .*; and 24 more"):
        read_adapter(path, CONFIG)


def test_missing_files_are_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match="is not a folder; give the one that holds adapter_config"):
        read_adapter(tmp_path / "none", CONFIG)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: cannot be read"):
        read_adapter(tmp_path / "empty", CONFIG)
    path = random_adapter(tmp_path / "a", CONFIG, ALL)
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: is missing"):
        read_adapter(path, CONFIG)
