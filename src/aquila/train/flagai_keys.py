"""The YAML files of the original (FlagAI), read as they are: one table from its keys to a recipe of ours.

Each key gives one line that says how it was read; an unknown one is an error. What the original did with a key, where
that differs from what its documentation says, stands beside the key. Nothing else in the package knows these names.
Sources: flagai/env_args.py, flagai/env_trainer_v1.py, examples/Aquila/*/bmtrain_mgpu.sh of FlagAI 1.7.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aquila.config import suggest
from aquila.errors import ConfigError

Values = Mapping[str, Any]
_LORA_TARGETS = {
    "wq": "q_proj",
    "wk": "k_proj",
    "wv": "v_proj",
    "wo": "o_proj",
    "w1": "gate_proj",
    "w2": "down_proj",
    "w3": "up_proj",
}
# What the original's start script (bmtrain_mgpu.sh) passed when the file did not say otherwise.
START_SCRIPT: dict[str, Any] = {
    "batch_size": 6,
    "gradient_accumulation_steps": 1,
    "lr": 6e-5,
    "warm_up": 0.2,
    "epochs": 1,
    "weight_decay": 0.1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "save_interval": 1000,
    "log_interval": 10,
    "bmt_lr_decay_style": "cosine",
}
_KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}
_SCRIPT_MODELS = "checkpoints_in"  # its PRE_LOAD_DIR


@dataclass
class Translation:
    """A recipe as plain data, what is to be told about it, and what the launcher itself needs from the file."""

    recipe: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    master_port: int | None = None
    experiment: str | None = None
    model: str | None = None

    def set(self, name: str, value: Any) -> None:
        """Sets a dotted field of the recipe."""
        *parents, last = name.split(".")
        place = self.recipe
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value


@dataclass(frozen=True)
class _Key:
    """One key: the values it takes, and either our field or a function that does what takes more than one field."""

    kind: type
    ours: str | None = None
    act: Callable[[Translation, Values, Any], str] | None = None
    note: str = ""


def is_flagai(data: Values) -> bool:
    """Whether a YAML file is one of the original's: flat, with at least one of its keys, and without our sections."""
    return bool(data) and not {"stage", "train", "data"} & data.keys() and bool(data.keys() & KEYS.keys())


def translate(data: Values, *, where: str, model: str | None = None) -> Translation:
    """The recipe that a YAML file of the original means, with one line for each of its keys.

    Args:
        data: the mapping in the file.
        where: the file, for messages.
        model: name of the model, as given to the start script; the file's `model_name` otherwise.

    Raises:
        ConfigError: unknown keys, or a value that cannot be meant.
    """
    unknown = [key for key in data if key not in KEYS]
    if unknown:
        words = "; ".join(f"{key!r} is not a key of the original's files{suggest(key, KEYS)}" for key in unknown[:5])
        raise ConfigError(f"{where}: {words}")
    values = {key: _checked(key, value, where) for key, value in data.items() if value is not None}
    result = Translation(model=model or values.get("model_name"))
    missing = {key: value for key, value in START_SCRIPT.items() if key not in values}
    whole = {**missing, **values}
    for key, value in whole.items():
        entry = KEYS[key]
        try:
            if entry.act is not None:
                line = entry.act(result, whole, value)
            elif entry.ours is not None:
                result.set(entry.ours, value)
                line = f"{entry.ours}: {_shown(value)}{entry.note and f' ({entry.note})'}"
            else:
                line = f"passed over: {entry.note}"
        except ValueError as error:
            raise ConfigError(f"{where}: {key}: {error}") from None
        origin = "" if key in values else ", not in the file: as the original's start script"
        result.lines.append(f"{key}: {_shown(value)}{origin} -> {line}")
    _finish(result, whole, where)
    return result


def _checked(key: str, value: Any, where: str) -> Any:
    """The value as its kind; the original's own reader took "True" and "False" as text too."""
    kind = KEYS[key].kind
    if kind is bool and value in ("True", "False"):
        return value == "True"
    if kind is float and type(value) is int:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, str):  # 1e-8 quoted
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) is not kind:
        raise ConfigError(f"{where}: {key}: expected {_KINDS[kind]}, got {value!r:.60}")
    return value


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _warm_up(result: Translation, values: Values, value: float) -> str:
    """Documented as a ratio of learning rates; its code takes it as the fraction of all steps that warms up."""
    if values.get("warm_up_iters"):
        return "passed over: warm_up_iters replaces it"
    if not 0 <= value < 1:
        raise ValueError(f"{value:g} is not a fraction of the run below 1")
    result.set("train.warmup_steps", value)
    if value == 0:
        return _no_schedule(result)
    return (
        f"train.warmup_steps: {value:g} (the fraction of all steps that warms up, whatever the original's README says)"
    )


def _no_schedule(result: Translation) -> str:
    result.set("train.schedule", "constant")
    return "train.schedule: constant (without warm-up the original made no schedule at all)"


def _warm_up_iters(result: Translation, values: Values, value: int) -> str:
    if value <= 0:
        return "passed over: 0 leaves it to warm_up"
    steps = math.ceil(value / values["gradient_accumulation_steps"])
    result.set("train.warmup_steps", steps)
    return f"train.warmup_steps: {steps} (optimizer steps; the original counted micro-batches)"


def _decay_style(result: Translation, values: Values, value: str) -> str:
    if not values.get("warm_up_iters") and not values["warm_up"]:
        return "passed over: no schedule without warm-up"
    linear = value == "linear"
    result.set("train.schedule", "linear" if linear else "cosine")
    result.set("train.min_lr_ratio", 0.0 if linear else 0.1)
    return "train.schedule: linear, to 0" if linear else "train.schedule: cosine, to a tenth (train.min_lr_ratio: 0.1)"


def _lora(result: Translation, values: Values, value: bool) -> str:
    if not value:
        return "no adapter: all weights are trained"
    names = ["wq", "wv", *values.get("lora_target_modules", [])]  # the original appended to its default
    unknown = [name for name in names if name not in _LORA_TARGETS and name not in _LORA_TARGETS.values()]
    if unknown:
        raise ValueError(f"lora_target_modules: {unknown[0]!r} is not a layer{suggest(unknown[0], _LORA_TARGETS)}")
    lora = {
        "r": values.get("lora_r", 8),
        "alpha": values.get("lora_alpha", 16),
        "dropout": values.get("lora_dropout", 0.05),
        "targets": list(dict.fromkeys(_LORA_TARGETS.get(name, name) for name in names)),
    }
    result.set("lora", lora)
    return (
        f"lora: r {lora['r']}, alpha {lora['alpha']}, dropout {lora['dropout']:g}, targets {', '.join(lora['targets'])}"
    )


def _of_lora(result: Translation, values: Values, value: Any) -> str:
    return "part of lora" if values.get("lora") else "passed over: lora is not true"


def _sft_folder(result: Translation, values: Values, value: str) -> str:
    name = values.get("enable_sft_dataset_file")
    path = str(Path(value) / name) if name else value
    result.set("data.sft", [path])
    return f"stage: sft, data.sft: {path}"


def _sft_file(result: Translation, values: Values, value: str) -> str:
    if "enable_sft_dataset_dir" in values:
        return "in the folder above"
    result.set("data.sft", [value])
    return f"stage: sft, data.sft: {value}"


def _sft_validation(result: Translation, values: Values, value: str) -> str:
    path = str(Path(values.get("enable_sft_dataset_dir", "")) / value)
    result.set("data.validation", [path])
    return f"data.validation: {path} (really measured on; the original measured on its training file)"


def _data(result: Translation, values: Values, value: str) -> str:
    path = str(Path(values.get("enable_pretrain_dataset_prefix", "")) / value)
    result.set("data.path", path)
    return f"data.path: {path}"


def _precision(result: Translation, values: Values, value: bool) -> str:
    result.set("parallel.precision", "fp16" if value else "fp32")
    return f"parallel.precision: {'fp16, with loss scaling and fp32 weights' if value else 'fp32'}"


def _checkpointing(result: Translation, values: Values, value: bool) -> str:
    result.set("parallel.activation_checkpointing", "full" if value else "none")
    return f"parallel.activation_checkpointing: {'full' if value else 'none'} (had no effect in the original)"


def _environment(result: Translation, values: Values, value: str) -> str:
    tp = values.get("model_parallel_size", 1) if value == "deepspeed+mpu" else 1
    if tp > 1:
        result.set("parallel.tp", tp)
        return f"parallel.tp: {tp}; the rest is sharded (FSDP2)"
    return "weights and optimizer are sharded over all devices (FSDP2)"


def _preload(result: Translation, values: Values, value: bool) -> str:
    if not value:
        return "training starts from random weights" + (
            "; the original's README calls this continued pre-training, for which it must be True"
            if values.get("pre_load_dir")
            else ""
        )
    return "init.checkpoint, see below"


def _load_dir(result: Translation, values: Values, value: str) -> str:
    latest = Path(value) / "latest_iteration.txt"
    folder = Path(value) / latest.read_text(encoding="utf-8").split()[0] if latest.is_file() else Path(value)
    result.set("init.checkpoint", str(folder))
    return f"init.checkpoint: {folder} (weights; FlagAI's optimizer files cannot be taken over)"


def _tracker(name: str) -> Callable[[Translation, Values, Any], str]:
    def act(result: Translation, values: Values, value: bool) -> str:
        if not value:
            return "not used"
        result.set("log.tracker", name)
        return f"log.tracker: {name}"

    return act


def _skip(result: Translation, values: Values, value: int) -> str:
    if value:
        raise ValueError(
            f"{value} batches cannot be skipped; a run that is started again goes on where it was by itself"
        )
    return "nothing to skip"


def _launcher(name: str) -> Callable[[Translation, Values, Any], str]:
    def act(result: Translation, values: Values, value: Any) -> str:
        if getattr(result, name) is None:
            setattr(result, name, value)
        return f"{name.replace('_', ' ')} of the launch"

    return act


def _passed(kind: type, why: str) -> _Key:
    return _Key(kind, note=why)


_BY_COMMAND = "the command line of `aquila launch` says it"
_RESUME = "checkpoints are always complete, and a run that is started again goes on exactly"
_FORMAT = "the format of each line is recognised"
_AUTOMATIC = "chosen automatically"
KEYS: dict[str, _Key] = {
    "batch_size": _Key(int, "train.micro_batch_size", note="sequences on each device"),
    "gradient_accumulation_steps": _Key(
        int,
        "train.gradient_accumulation_steps",
        note="mean over all tokens of the step; the original summed, so its rate was higher",
    ),
    "lr": _Key(float, "train.lr"),
    "warm_up": _Key(float, act=_warm_up),
    "warm_up_iters": _Key(int, act=_warm_up_iters),
    "warmup_start_lr": _Key(float, "train.warmup_start_lr"),
    "bmt_lr_decay_style": _Key(str, act=_decay_style),
    "epochs": _Key(int, "train.epochs"),
    "seed": _Key(int, "train.seed"),
    "weight_decay": _Key(float, "train.weight_decay"),
    "adam_beta1": _Key(float, "train.adam_beta1"),
    "adam_beta2": _Key(float, "train.adam_beta2"),
    "eps": _Key(float, "train.eps"),
    "clip_grad": _Key(float, "train.max_grad_norm", note="of the whole step; the original clipped each micro-batch"),
    "save_interval": _Key(int, "save.save_interval"),
    "log_interval": _Key(int, "log.log_interval"),
    "eval_interval": _Key(int, "eval.eval_interval"),
    "lora": _Key(bool, act=_lora),
    "lora_r": _Key(int, act=_of_lora),
    "lora_alpha": _Key(int, act=_of_lora),
    "lora_dropout": _Key(float, act=_of_lora),
    "lora_target_modules": _Key(list, act=_of_lora),
    "enable_sft_dataset_dir": _Key(str, act=_sft_folder),
    "enable_sft_dataset_file": _Key(str, act=_sft_file),
    "enable_sft_dataset_val_file": _Key(str, act=_sft_validation),
    "pretrain_data": _Key(str, act=_data),
    "enable_pretrain_dataset_prefix": _passed(str, "the folder of pretrain_data"),
    "fp16": _Key(bool, act=_precision),
    "bmt_loss_scale": _Key(float, "train.loss_scale"),
    "bmt_loss_scale_steps": _Key(int, "train.loss_scale_window"),
    "bmt_cpu_offload": _Key(bool, "parallel.offload"),
    "checkpoint_activations": _Key(bool, act=_checkpointing),
    "deepspeed_activation_checkpointing": _Key(bool, act=_checkpointing),
    "env_type": _Key(str, act=_environment),
    "model_parallel_size": _passed(int, "part of env_type"),
    "bmt_pre_load": _Key(bool, act=_preload),
    "pre_load_dir": _passed(str, "the folder of the model, see below"),
    "load_dir": _Key(str, act=_load_dir),
    "wandb": _Key(bool, act=_tracker("wandb")),
    "tensorboard": _Key(bool, act=_tracker("tensorboard")),
    "skip_iters": _Key(int, act=_skip),
    "master_port": _Key(int, act=_launcher("master_port")),
    "experiment_name": _Key(str, act=_launcher("experiment")),
    "model_name": _Key(str, act=_launcher("model")),
    **dict.fromkeys(("save_optim", "save_rng", "load_optim", "load_rng", "resume_dataset"), _passed(bool, _RESUME)),
    **dict.fromkeys(("save_dir", "hostfile", "master_ip", "training_script", "yaml_config"), _passed(str, _BY_COMMAND)),
    **dict.fromkeys(("num_nodes", "num_gpus", "local-rank", "local_rank"), _passed(int, _BY_COMMAND)),
    "not_call_launch": _passed(bool, _BY_COMMAND),
    "load_type": _passed(str, _RESUME),
    **dict.fromkeys(
        (
            "enable_sft_dataset",
            "enable_sft_dataset_text",
            "enable_sft_dataset_jsonl",
            "enable_sft_conversations_dataset",
            "enable_sft_conversations_dataset_v2",
            "enable_sft_conversations_dataset_v3",
        ),
        _passed(bool, _FORMAT),
    ),
    "enable_weighted_dataset_v2": _passed(bool, "weights are given in data.mix"),
    "shuffle_dataset": _passed(bool, "the order is always shuffled, from the seed"),
    **dict.fromkeys(("enable_flash_attn_models", "enable_flashattn"), _passed(bool, f"attention is {_AUTOMATIC}")),
    "already_fp16": _passed(bool, "the precision of a checkpoint is in its files"),
    "pytorch_device": _passed(str, f"the device is {_AUTOMATIC}"),
    "bmt_async_load": _passed(bool, "each device reads only its part"),
    "deepspeed_config": _passed(str, "there is no DeepSpeed below"),
    "num_checkpoints": _passed(int, "activation checkpointing needs no number"),
    "IGNORE_INDEX": _passed(int, "it is -100"),
    "tensorboard_dir": _passed(str, "metrics are kept in the folder of the run"),
    "wandb_dir": _passed(str, "metrics are kept in the folder of the run"),
    "wandb_key": _passed(str, "a key does not belong in a file; use `wandb login`"),
}


def _finish(result: Translation, values: Values, where: str) -> None:
    """What follows from several keys: the stage, the model and where its weights come from."""
    recipe, name = result.recipe, result.model
    is_sft = "sft" in recipe.get("data", {})
    if name is None:
        raise ConfigError(
            f"{where}: says nothing of the model; name it after the file: aquila launch HOSTFILE {where} MODEL"
        )
    folder = Path(values.get("pre_load_dir", _SCRIPT_MODELS)) / name
    source = str(folder) if folder.is_dir() else name
    has_weights = "checkpoint" in recipe.get("init", {})
    if not has_weights and (values.get("bmt_pre_load") or is_sft or "lora" in recipe):
        result.set("init.checkpoint", source)
        has_weights = True
        result.lines.append(f"MODEL: {name} -> init.checkpoint: {source}")
    elif not has_weights:
        recipe["model"], recipe["tokenizer"] = name.lower(), source
        result.lines.append(f"MODEL: {name} -> model: {name.lower()}, with random weights; tokenizer: {source}")
    recipe["stage"] = "sft" if is_sft else "continue" if has_weights else "pretrain"
    result.lines.append(f"stage: {recipe['stage']}")
