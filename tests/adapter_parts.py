"""Small LoRA adapters in folders as PEFT writes them, with random weights, and models they were merged into."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aquila.checkpoint.adapter import Adapter
from aquila.checkpoint.checkpoint import Export
from aquila.checkpoint.names import FLAGAI, expected_tensors, interleaved_rows
from aquila.checkpoint.native import write_native
from aquila.checkpoint.open import Checkpoint, open_checkpoint
from aquila.checkpoint.safetensors_file import write_safetensors
from aquila.checkpoint.tensors import DTYPES, LazyTensor, from_array, take_rows
from aquila.checkpoint.torch_pickle import write_torch_file
from aquila.model.config import ModelConfig
from parts import tiny_tokenizer

_BLOCK = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
}
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def adapter_tensors(
    config: ModelConfig, targets: Sequence[str] = ALL, *, rank: int = 4, dtype: str = "fp32", seed: int = 0
) -> dict[str, LazyTensor]:
    """A and B of every target in every layer, under PEFT's names. Neither is zero."""
    generator = np.random.default_rng(seed)
    found = {}
    for name, shape in expected_tensors(config).items():
        matrix = name.removesuffix(".weight")
        if len(shape) == 2 and matrix.rpartition(".")[2] in targets:
            for half, size in (("A", (rank, shape[1])), ("B", (shape[0], rank))):
                # at 0.3 fp32 itself, merged or not, strays by up to 1.4e-4 from fp64; at 0.2 by 4.5e-5
                values = generator.normal(0, 0.2, size).astype(DTYPES[dtype])
                found[f"base_model.model.{matrix}.lora_{half}.weight"] = from_array(values)
    return found


def write_adapter(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    targets: Any = ALL,
    *,
    rank: int = 4,
    dtype: str = "fp32",
    **more: Any,
) -> Path:
    """A PEFT folder; `more` replaces fields of its config."""
    path.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": rank,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": list(targets) if isinstance(targets, tuple) else targets,
    }
    (path / "adapter_config.json").write_text(json.dumps({**config, **more}))
    write_safetensors(path / "adapter_model.safetensors", tensors, DTYPES[dtype], lambda count: None)
    return path


def random_adapter(path: Path, config: ModelConfig, targets: Sequence[str] = ALL, **options: Any) -> Path:
    """A folder with random weights for some matrices. Options: rank, dtype, seed, and fields of the config."""
    made = {key: options.pop(key) for key in ("rank", "dtype", "seed") if key in options}
    tensors = adapter_tensors(config, targets, **made)
    made.pop("seed", None)
    return write_adapter(path, tensors, tuple(targets), **made, **options)


def flagai_adapter(
    path: Path, config: ModelConfig, targets: Sequence[str] = ("q_proj", "k_proj", "v_proj"), *, seed: int = 0
) -> Path:
    """The adapter of `random_adapter(..., rank=4)` as FlagAI saves it: its names, its row order, a pickle."""
    tensors = {}
    for name, tensor in adapter_tensors(config, targets, seed=seed).items():
        matrix, half = name.removeprefix("base_model.model.").split(".lora_")
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(matrix.split(".")[-1])
        if half == "B.weight" and heads is not None:
            tensor = take_rows(tensor, interleaved_rows(heads, config.head_dim))
        theirs = FLAGAI.from_canonical(f"{matrix}.weight").removesuffix(".weight")
        tensors[f"base_model.model.{theirs}.lora_{half}"] = tensor
    path.mkdir(parents=True)
    names = [FLAGAI.per_layer[f"{_BLOCK[target]}.{target}.weight"].split(".")[1] for target in targets]
    config_json = {
        "base_model_name_or_path": None,
        "bias": "none",
        "enable_lora": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 4,
        "revision": None,
        "target_modules": names,
        "task_type": "CAUSAL_LM",
    }
    (path / "adapter_config.json").write_text(json.dumps(config_json))
    write_torch_file(path / "adapter_model.bin", tensors, "fp32", lambda count: None)
    return path


def merged(checkpoint: Checkpoint, adapter: Adapter, path: Path) -> Checkpoint:
    """The checkpoint with W + scale B A in place of every W that the adapter names, in fp32."""
    tensors = dict(checkpoint.tensors)
    for name, pair in adapter.matrices.items():
        down, up = (half.numpy(DTYPES["fp32"]).astype(np.float64) for half in (pair.down, pair.up))
        weight = tensors[f"{name}.weight"].numpy(DTYPES["fp32"]) + pair.scale * (up @ down)
        tensors[f"{name}.weight"] = from_array(weight.astype(np.float32))
    path.mkdir()
    write_native(Export(checkpoint.config, tensors, "fp32", tiny_tokenizer(), {"name": "merged"}), path)
    return open_checkpoint(path)
