"""Writes adapters as folders of Hugging Face PEFT: adapter_config.json and adapter_model.safetensors, in fp32."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aquila.checkpoint.adapter import CONFIG, PREFIX, WEIGHTS, reorder_rows
from aquila.checkpoint.folder import new_folder, write_json
from aquila.checkpoint.names import expected_tensors
from aquila.checkpoint.safetensors_file import write_safetensors
from aquila.checkpoint.tensors import DTYPES, LazyTensor
from aquila.errors import ConfigError
from aquila.model.config import ModelConfig


@dataclass(frozen=True)
class AdapterSettings:
    """What PEFT wants to know of an adapter beside its tensors.

    Attributes:
        base_name: name or path of the model it was made for; PEFT looks for the base there.
    """

    r: int
    alpha: float
    dropout: float = 0.0
    base_name: str | None = None


def write_adapter(
    path: Path, config: ModelConfig, pairs: Mapping[str, tuple[LazyTensor, LazyTensor]], settings: AdapterSettings
) -> Path:
    """Writes a new folder `path`, which appears whole or not at all, and returns it.

    Args:
        path: absent, or an empty folder.
        config: of the model; says in which order the rows of q and k are.
        pairs: A `[r, columns]` and B `[rows, r]` by name of their matrix (`model.layers.0.self_attn.q_proj`).
        settings: as the adapter was trained.

    Raises:
        ConfigError: the folder holds something.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ConfigError(f"{path}: exists already; name another folder or remove it first")
    tensors: dict[str, LazyTensor] = {}
    targets = []
    for name in (each.removesuffix(".weight") for each in expected_tensors(config)):
        if name not in pairs:
            continue
        down, up = pairs[name]
        if config.rope_interleaved:
            up = reorder_rows(name, up, config, interleaved=False)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = down
        tensors[f"{PREFIX}{name}.lora_B.weight"] = up
        targets.append(name.rpartition(".")[2])
    assert len(tensors) == 2 * len(pairs), "every pair belongs to a matrix of the model"
    with new_folder(path) as temporary:
        write_safetensors(temporary / WEIGHTS[0], tensors, DTYPES["fp32"], lambda num_bytes: None)
        write_json(
            temporary / CONFIG,
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": settings.base_name,
                "inference_mode": True,
                "r": settings.r,
                "lora_alpha": int(settings.alpha) if settings.alpha == int(settings.alpha) else settings.alpha,
                "lora_dropout": settings.dropout,
                "target_modules": list(dict.fromkeys(targets)),
                "bias": "none",
                "fan_in_fan_out": False,
                "init_lora_weights": True,
                "modules_to_save": None,
                "use_dora": False,
                "use_rslora": False,
            },
        )
    return path


def trained_pairs(tensors: Mapping[str, LazyTensor]) -> dict[str, tuple[LazyTensor, LazyTensor]]:
    """A and B by name of their matrix, out of tensors named as in a model in training (`...q_proj.lora_A`)."""
    end = ".lora_A"
    names = [name.removesuffix(end) for name in tensors if name.endswith(end)]
    return {name: (tensors[f"{name}.lora_A"], tensors[f"{name}.lora_B"]) for name in names}
