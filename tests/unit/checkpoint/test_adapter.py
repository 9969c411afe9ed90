"""PEFT folders: what is read, and what is refused because it would answer otherwise than in PEFT."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapter_parts import ALL, adapter_tensors, flagai_adapter, random_adapter, write_adapter
from aquila.checkpoint.adapter import open_adapter, read_adapter
from aquila.checkpoint.names import interleaved_rows
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


def test_flagais_folder_is_the_same_adapter(tmp_path: Path):
    """Its names, its pickle, and the rows of q and k that it has side by side."""
    found = read_adapter(flagai_adapter(tmp_path / "flagai", CONFIG), CONFIG)
    expected = read_adapter(random_adapter(tmp_path / "peft", CONFIG, ("q_proj", "k_proj", "v_proj")), CONFIG)
    assert found.matrices.keys() == expected.matrices.keys()
    for name, pair in expected.matrices.items():
        for half, reference in ((found.matrices[name].down, pair.down), (found.matrices[name].up, pair.up)):
            np.testing.assert_array_equal(half.numpy(), reference.numpy(), err_msg=name)
    assert open_adapter(tmp_path / "flagai").format == "flagai"
    assert found.matrices["model.layers.0.self_attn.q_proj"].scale == 2.0


@pytest.mark.parametrize("kind", ["peft", "flagai"])
def test_rows_follow_the_model(tmp_path: Path, kind: str):
    """A model with its rotary pairs side by side gets B of q and k in that order, whatever the file has."""
    make = flagai_adapter if kind == "flagai" else random_adapter
    path = make(tmp_path / "a", CONFIG, ("q_proj", "k_proj", "v_proj"))
    half_split = read_adapter(path, CONFIG).matrices
    found = read_adapter(path, CONFIG.model_copy(update={"rope_interleaved": True})).matrices
    for name, heads in (("q_proj", 4), ("k_proj", 2)):
        up, other = (each[f"model.layers.1.self_attn.{name}"].up.numpy() for each in (half_split, found))
        np.testing.assert_array_equal(other, up[interleaved_rows(heads, 8)])
        assert not np.array_equal(other, up)
    value = "model.layers.1.self_attn.v_proj"
    np.testing.assert_array_equal(found[value].up.numpy(), half_split[value].up.numpy())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"some_future_option": True}, "some_future_option True not supported; merge the adapter"),
        ({"velora_config": {"a": 1}}, "velora_config {'a': 1} not supported"),
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
    (path / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: is missing, and so is adapter_model\.bin"):
        read_adapter(path, CONFIG)


def damaged(path: Path, change: str) -> Path:
    """One folder for each way in which files come apart."""
    weights = path / "adapter_model.safetensors"
    if change == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif change == "empty":
        weights.write_bytes(b"")
    elif change == "half a config":
        (path / "adapter_config.json").write_text((path / "adapter_config.json").read_text()[:40])
    elif change == "a list":
        (path / "adapter_config.json").write_text("[]")
    elif change == "code":
        weights.unlink()
        torch.save({"a": Path("x")}, path / "adapter_model.bin")
    elif change == "no pickle":
        weights.rename(path / "adapter_model.bin")
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("cut", r"adapter_model\.safetensors: .* bytes expected, .* found: it is truncated; fetch it again"),
        ("empty", r"adapter_model\.safetensors: cannot be read: cannot mmap an empty file; fetch the file again"),
        ("half a config", r"adapter_config\.json: is not valid JSON"),
        ("a list", r"adapter_config\.json: holds a JSON list where an object is expected"),
        ("code", r"adapter_model\.bin: the pickle asks for pathlib"),
        ("no pickle", r"adapter_model\.bin: .* not a readable pickle|adapter_model\.bin: truncated or damaged"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(tmp_path: Path, change: str, message: str):
    path = damaged(random_adapter(tmp_path / "a", CONFIG), change)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_adapter(path, CONFIG)
    assert "\n" not in str(caught.value)
