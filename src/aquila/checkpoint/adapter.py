"""Low-rank adapters as Hugging Face PEFT saves them: adapter_config.json and adapter_model.safetensors (or .bin).

An adapter adds `scale * up (down x)` to the product of a matrix. Source: Hu et al. 2021, arXiv:2106.09685, eq. 3; the
scale is alpha / rank, or alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732). The rows of `up` are in the order
of the matrix's own rows: half-split in PEFT's folders for Hugging Face models, interleaved in FlagAI's, which carry the
names of its matrices (`layers.0.attention.wq`). They come out in the order of the model that they are read for.

What would be read and then answer otherwise than PEFT does is refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aquila.checkpoint.folder import read_json
from aquila.checkpoint.names import FLAGAI, expected_tensors, half_split_rows, interleaved_rows
from aquila.checkpoint.safetensors_file import read_safetensors
from aquila.checkpoint.tensors import LazyTensor, take_rows
from aquila.checkpoint.torch_pickle import read_torch_file
from aquila.config import suggest
from aquila.errors import CheckpointError, ConfigError
from aquila.model.config import ModelConfig
from aquila.model.lora_targets import TARGETS

PREFIX = "base_model.model."
CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # the second is PEFT's older form, and FlagAI's
_ENDS = {".lora_A.weight": 0, ".lora_B.weight": 1}
_FLAGAI_TARGETS = {  # FlagAI's name of a matrix -> ours
    theirs.removesuffix(".weight").rpartition(".")[2]: ours.removesuffix(".weight").rpartition(".")[2]
    for ours, theirs in FLAGAI.per_layer.items()
    if ours.removesuffix(".weight").endswith(TARGETS)
}
MAX_RANK = 4096
_WITHOUT = {  # options that change what an adapter computes -> values that leave it plain
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "lora_bias": (None, False),
    "fan_in_fan_out": (None, False),
    "bias": (None, "none"),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    # other names ("pissa", "olora", "loftq", "corda") change the base model too
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
}
_HARMLESS = {  # options that say where an adapter came from, or which layers it has, as its tensors do
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "inference_mode", "target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "megatron_core", "megatron_config", "loftq_config", "eva_config"),
    *("corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying", "runtime_config"),
    *("enable_lora", "merge_weights"),  # of the PEFT that FlagAI brings along
}


@dataclass(frozen=True, eq=False)
class LowRank:
    """`scale * up (down x)`, what is added to the product of one matrix `[rows, columns]`."""

    down: LazyTensor  # [rank, columns]
    up: LazyTensor  # [rows, rank]
    scale: float


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter of one model: what is added to the products of its matrices, by their names without `.weight`."""

    path: Path
    rank: int
    matrices: Mapping[str, LowRank]

    @property
    def num_elements(self) -> int:
        return sum(item.down.num_elements + item.up.num_elements for item in self.matrices.values())


@dataclass(frozen=True, eq=False)
class AdapterFolder:
    """What an adapter's folder says by itself, before it is known for which model.

    Attributes:
        format: "peft", or "flagai" where tensors have FlagAI's names and row order.
        base_name: of the model it was made for, as far as stated.
        pairs: A `[rank, columns]` and B `[rows, rank]` by canonical name of their matrix, rows as in the file.
    """

    path: Path
    weights: Path
    format: Literal["peft", "flagai"]
    rank: int
    alpha: float
    scale: float
    base_name: str | None
    pairs: Mapping[str, tuple[LazyTensor, LazyTensor]]


def open_adapter(path: Path) -> AdapterFolder:
    """Opens a folder of PEFT or FlagAI and checks it against itself. Weights are read later.

    Raises:
        CheckpointError: files are missing or damaged, or its parts contradict each other.
        ConfigError: another kind of adapter than plain LoRA.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: is not a folder; give the one that holds {CONFIG}")
    raw = read_json(path / CONFIG)
    rank, alpha, scale = _rank_and_scale(raw, str(path / CONFIG))
    weights = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{path / WEIGHTS[0]}: is missing, and so is {WEIGHTS[1]}; fetch the adapter again")
    tensors = read_safetensors(weights) if weights.name == WEIGHTS[0] else read_torch_file(weights)
    pairs = _pairs(tensors, path, weights.name)
    flagai = any(name.startswith(FLAGAI.layers) for name in pairs)
    if flagai:
        pairs = {FLAGAI.to_canonical(f"{name}.weight").removesuffix(".weight"): pair for name, pair in pairs.items()}
    _check_targets(raw, pairs, path)
    made_for = raw.get("base_model_name_or_path")
    base_name = made_for if isinstance(made_for, str) and made_for else None
    return AdapterFolder(path, weights, "flagai" if flagai else "peft", rank, alpha, scale, base_name, pairs)


def read_adapter(path: Path, config: ModelConfig) -> Adapter:
    """Opens an adapter for a model of shape `config`, whose rows it follows. Weights are read later.

    Raises:
        CheckpointError: as `open_adapter`, or the tensors are not those of an adapter of this model.
        ConfigError: another kind of adapter than plain LoRA.
    """
    found = open_adapter(path)
    _check_shapes(found.pairs, found.rank, config, f"{path}: made for {found.base_name or 'another model'!r}")
    interleaved = found.format == "flagai"
    matrices = {}
    for name, (down, up) in found.pairs.items():
        if interleaved != config.rope_interleaved:
            up = reorder_rows(name, up, config, interleaved=config.rope_interleaved)
        matrices[name] = LowRank(down, up, found.scale)
    return Adapter(path, found.rank, matrices)


def reorder_rows(name: str, up: LazyTensor, config: ModelConfig, *, interleaved: bool) -> LazyTensor:
    """B of matrix `name` with its rotary pairs interleaved, from half-split ones, or the other way round."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.rpartition(".")[2])
    if heads is None:
        return up
    return take_rows(up, (interleaved_rows if interleaved else half_split_rows)(heads, config.head_dim))


def _rank_and_scale(raw: Mapping[str, Any], where: str) -> tuple[int, float, float]:
    if raw.get("peft_type") != "LORA":
        raise ConfigError(f"{where}: peft_type {raw.get('peft_type')!r:.40} is not supported; only LORA is")
    changed = [f"{key} {raw[key]!r:.80}" for key, plain in _WITHOUT.items() if key in raw and raw[key] not in plain]
    unknown = [key for key in raw if key not in _WITHOUT and key not in _HARMLESS and raw[key]]
    changed += [f"{key} {raw[key]!r:.80}" for key in unknown]
    if changed:
        raise ConfigError(
            f"{where}: {', '.join(changed)} not supported; merge the adapter into its model with PEFT "
            "(merge_and_unload) and load the result"
        )
    rank, alpha, by_root = raw.get("r"), raw.get("lora_alpha"), raw.get("use_rslora") or False
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK:
        raise ConfigError(f"{where}: r {rank!r:.40} is not a rank between 1 and {MAX_RANK}; the file is damaged")
    numeric = isinstance(alpha, int | float) and not isinstance(alpha, bool) and math.isfinite(alpha)
    if not numeric or not isinstance(by_root, bool):
        raise ConfigError(
            f"{where}: lora_alpha {alpha!r:.40} is not a number, or use_rslora {by_root!r:.40} not true or false; "
            "the file is damaged"
        )
    return rank, float(alpha), float(alpha) / (math.sqrt(rank) if by_root else rank)


def _pairs(tensors: Mapping[str, LazyTensor], path: Path, file: str) -> dict[str, tuple[LazyTensor, LazyTensor]]:
    """(A, B) by the name of their matrix; an error lists names that are none, and halves without the other."""
    found: dict[str, dict[int, LazyTensor]] = {}
    unknown = []
    for name, tensor in tensors.items():
        end = next((end for end in _ENDS if name.endswith(end)), None)
        if end is None or not name.startswith(PREFIX):
            unknown.append(name)
            continue
        found.setdefault(name.removeprefix(PREFIX).removesuffix(end), {})[_ENDS[end]] = tensor
    if unknown:
        raise CheckpointError(f"{path}: tensors that are no lora_A or lora_B weight: {_some(unknown)}")
    lone = [f"{name}.lora_{'AB'[next(iter(half))]}" for name, half in found.items() if len(half) == 1]
    if lone:
        raise CheckpointError(f"{path}: the other half of a pair is missing: {_some(lone)}; fetch the adapter again")
    if not found:
        raise CheckpointError(f"{path}: {file} holds no tensors; fetch the adapter again")
    return {name: (pair[0], pair[1]) for name, pair in found.items()}


def _check_targets(raw: Mapping[str, Any], pairs: Mapping[str, Any], path: Path) -> None:
    """A list of target_modules and the tensors name the same matrices. A pattern cannot be checked, tensors decide."""
    targets = raw.get("target_modules")
    if not isinstance(targets, list):
        return
    names = [name if isinstance(name, str) else repr(name) for name in targets]
    ends = [_FLAGAI_TARGETS.get(end, end) for end in (name.rpartition(".")[2] for name in names)]
    unknown = [name for name, end in zip(names, ends, strict=True) if end not in TARGETS]
    if unknown:
        raise ConfigError(f"{path}: target_modules {_some(unknown)} not supported{suggest(unknown[0], TARGETS)}")
    saved = {name.rpartition(".")[2] for name in pairs}
    missing = [end for end in dict.fromkeys(ends) if end not in saved]
    if missing or not saved <= set(ends):
        raise CheckpointError(
            f"{path}: target_modules and tensors differ: {_some(missing or sorted(saved - set(ends)))} "
            f"{'without tensors' if missing else 'not among target_modules'}; fetch the adapter again"
        )


def _check_shapes(
    pairs: Mapping[str, tuple[LazyTensor, LazyTensor]], rank: int, config: ModelConfig, made_for: str
) -> None:
    matrices = {
        name.removesuffix(".weight"): shape
        for name, shape in expected_tensors(config).items()
        if len(shape) == 2 and name.startswith("model.layers.")
    }
    unknown = [name for name in pairs if name not in matrices]
    if unknown:
        raise CheckpointError(
            f"{made_for}, it adapts matrices that this one does not have: {_some(unknown)}; give it to its own model"
        )
    wrong = []
    for name, (down, up) in pairs.items():
        rows, columns = matrices[name]
        for half, found, expected in (("A", down.shape, (rank, columns)), ("B", up.shape, (rows, rank))):
            if found != expected:
                wrong.append(f"{name}.lora_{half} {list(found)}, expected {list(expected)}")
    if wrong:
        raise CheckpointError(
            f"{made_for}, its shapes are not those of rank {rank} on this one: {'; '.join(wrong[:4])}"
            f"{f'; and {len(wrong) - 4} more' if len(wrong) > 4 else ''}; give it to its own model"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more
