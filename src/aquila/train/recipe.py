"""A training run as data: what `aquila train RECIPE.yaml key.sub=value` reads. Imports no torch.

Sections: what is trained (`stage`, `model`, `init`, `tokenizer`, `lora`), on what (`data`), how (`train`), on which
devices (`parallel`), and what is kept and told (`save`, `eval`, `log`). Every field says what it means in its
description."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aquila.config import load_config
from aquila.data.config import DataConfig
from aquila.model.lora_targets import LoraTarget

Stage = Literal["pretrain", "continue", "sft"]
Precision = Literal["fp32", "bf16", "fp16"]


class Section(BaseModel):
    """Frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InitConfig(Section):
    checkpoint: str | None = Field(
        None, description="weights to start from: a folder, a file or the name of a pulled model; none: random weights"
    )


class TrainConfig(Section):
    """How long, how fast, with what optimizer. One of `steps`, `num_tokens` and `epochs` gives the length."""

    steps: int | None = Field(None, ge=1, description="optimizer steps of the whole run")
    num_tokens: int | None = Field(None, ge=1, description="tokens of the whole run, padding included")
    epochs: float | None = Field(None, gt=0, le=10_000, description="passes over the data")
    global_batch_size: int | None = Field(
        None,
        ge=1,
        description="sequences of one optimizer step over all devices; left out: micro_batch_size x "
        "gradient_accumulation_steps x data-parallel devices",
    )
    micro_batch_size: int | Literal["auto"] = Field(
        "auto", description="sequences that a device computes at once; auto: as many as memory holds"
    )
    gradient_accumulation_steps: int | None = Field(
        None, ge=1, description="micro-batches of one optimizer step; follows from the two batch sizes when left out"
    )
    lr: float = Field(3e-4, gt=0, le=100, description="highest learning rate")
    schedule: Literal["cosine", "linear", "wsd", "constant"] = Field(
        "cosine", description="shape of the learning rate after warm-up; wsd: constant, then a linear decay"
    )
    min_lr_ratio: float = Field(0.1, ge=0, le=1, description="last learning rate as a share of the highest")
    warmup_steps: float = Field(
        0.01, ge=0, description="linear warm-up: below 1 a fraction of all steps, from 1 on a number of steps"
    )
    warmup_start_lr: float = Field(0.0, ge=0, description="learning rate that warm-up starts from")
    decay_ratio: float = Field(0.1, ge=0, le=1, description="wsd: share of all steps that decay at the end")
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: orthogonalised momentum for the matrices of the blocks, AdamW for everything else"
    )
    muon_lr: float = Field(0.02, gt=0, le=100, description="highest learning rate of the matrices under muon")
    muon_momentum: float = Field(0.95, ge=0, lt=1, description="momentum of the matrices under muon")
    weight_decay: float = Field(0.1, ge=0, le=10, description="decoupled; not on norms and biases")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of Adam's first moment")
    adam_beta2: float = Field(0.95, ge=0, lt=1, description="decay of Adam's second moment")
    eps: float = Field(1e-8, gt=0, lt=1, description="Adam's denominator")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are scaled down to this norm; 0: never")
    spike_sigma: float = Field(
        8.0,
        ge=0,
        description="a step whose loss or gradient norm is so many deviations above the recent is skipped; 0: never",
    )
    max_skipped_steps: int = Field(20, ge=1, description="skipped steps in a row that end the run")
    loss_scale: float = Field(65536.0, ge=1, description="fp16: first scale of the loss")
    loss_scale_window: int = Field(1000, ge=1, description="fp16: the scale doubles after so many good steps")
    seed: int = Field(1234, ge=0, lt=1 << 63, description="of the weights, the order of the data and dropout")

    @model_validator(mode="after")
    def _agree(self) -> "TrainConfig":
        lengths = {name: getattr(self, name) for name in ("steps", "num_tokens", "epochs")}
        given = [name for name, value in lengths.items() if value is not None]
        if len(given) != 1:
            what = f"{' and '.join(given)} are given" if given else "no length is given"
            raise ValueError(f"{what}; give exactly one of steps, num_tokens and epochs")
        if self.warmup_steps >= 1 and self.warmup_steps != int(self.warmup_steps):
            raise ValueError(f"warmup_steps: {self.warmup_steps} is neither a fraction below 1 nor a whole number")
        if isinstance(self.micro_batch_size, int) and self.micro_batch_size < 1:
            raise ValueError(f"micro_batch_size: must be positive or auto, got {self.micro_batch_size}")
        if self.global_batch_size is None and self.micro_batch_size == "auto":
            raise ValueError("give global_batch_size, or micro_batch_size to derive it from")
        return self


class ParallelConfig(Section):
    """How the run is spread. Devices = dp_replicate x dp_shard x cp x tp."""

    dp_replicate: int = Field(1, ge=1, description="copies of the sharded model (hybrid sharding)")
    dp_shard: int | Literal["auto"] = Field(
        "auto", description="devices that share one copy (FSDP); auto: all left over"
    )
    tp: int = Field(1, ge=1, le=64, description="tensor parallel devices, with sequence parallel norms")
    cp: int = Field(
        1, ge=1, le=64, description="context parallel devices (Ulysses): each holds a part of every sequence"
    )
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        "none", description="recompute in the backward pass: nothing, the cheap half of each block, or whole blocks"
    )
    compile: bool = Field(False, description="torch.compile each block; needs a C++ compiler")
    precision: Precision = Field("fp32", description="of the computation; weights and sums stay in fp32")
    offload: bool = Field(
        False, description="weights, gradients and optimizer live in host memory, blocks visit the device"
    )

    @model_validator(mode="after")
    def _agree(self) -> "ParallelConfig":
        if isinstance(self.dp_shard, int) and self.dp_shard < 1:
            raise ValueError(f"dp_shard: must be positive or auto, got {self.dp_shard}")
        return self


class SaveConfig(Section):
    save_interval: int = Field(1000, ge=1, description="steps between checkpoints; the last step is always saved")
    async_save: bool = Field(True, description="write in the background while training goes on")
    keep_last: int = Field(3, ge=1, description="newest checkpoints that are kept")
    keep_interval: int | None = Field(None, ge=1, description="checkpoints at multiples of this are kept for good")
    export: Literal["native", "hf"] | None = Field(
        None,
        description="also write each save as a model that other commands load; the end of a run always does (native)",
    )


class EvalConfig(Section):
    eval_interval: int = Field(
        1000, ge=0, description="steps between measurements on data.validation; 0: only at the end"
    )
    max_batches: int | None = Field(
        None, ge=1, description="of each validation set, in batches of global_batch_size; none: all"
    )
    prompts: tuple[str, ...] = Field((), description="texts to continue at every evaluation, written to samples.jsonl")
    max_new_tokens: int = Field(48, ge=1, le=4096, description="tokens of each continuation")


class LogConfig(Section):
    log_interval: int = Field(10, ge=1, description="steps between progress lines; metrics.jsonl has every step")
    tracker: Literal["tensorboard", "wandb", "trackio", "swanlab"] | None = Field(
        None, description="also send metrics there; its package must be installed"
    )
    project: str = Field("aquila", description="project name at the tracker")


class LoraConfig(Section):
    """Adapters instead of whole weights. Source: Hu et al. 2021, arXiv:2106.09685."""

    r: int = Field(8, ge=1, le=4096, description="rank")
    alpha: float = Field(16.0, gt=0, description="the update is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the adapter's input, seeded by step and sample")
    targets: tuple[LoraTarget, ...] = Field(
        ("q_proj", "v_proj"), min_length=1, description="names of the layers that are adapted"
    )
    quantize: Literal["w4", "w4m", "w8"] | None = Field(
        None, description="keep the frozen base in 4 or 8 bits a weight (QLoRA); none: full precision"
    )


class Recipe(Section):
    """One training run."""

    stage: Stage = Field(
        description="pretrain from random weights, continue from a checkpoint, or sft on conversations"
    )
    model: str | dict[str, Any] | None = Field(
        None,
        description="a preset's name, or config fields over a `base` preset; left out: the model of init.checkpoint",
    )
    tokenizer: str | None = Field(
        None, description="folder, file or model name; left out: the tokenizer of init.checkpoint"
    )
    init: InitConfig = Field(default_factory=InitConfig)
    data: DataConfig
    train: TrainConfig
    parallel: ParallelConfig = Field(default_factory=ParallelConfig)
    save: SaveConfig = Field(default_factory=SaveConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    lora: LoraConfig | None = None
    run_dir: str | None = Field(
        None, description="where the run lives; left out: checkpoints_out/NAME, after the name of the recipe file"
    )

    @model_validator(mode="after")
    def _agree(self) -> "Recipe":
        if self.init.checkpoint is None:
            if self.stage != "pretrain":
                raise ValueError(
                    f"init.checkpoint: stage {self.stage} starts from trained weights; name their checkpoint"
                )
            if self.lora is not None:
                raise ValueError("init.checkpoint: an adapter needs trained weights below it; name their checkpoint")
            if self.model is None:
                raise ValueError("model: is required when init.checkpoint names no weights; give a preset such as tiny")
            if self.tokenizer is None:
                raise ValueError("tokenizer: is required when init.checkpoint names no model that brings its own")
        return self


def load_recipe(files: Sequence[Path], overrides: Sequence[str] = ()) -> Recipe:
    """Defaults < `files` left to right < `key.sub=value` overrides. `ConfigError`: a line for each unusable field."""
    return load_config(Recipe, files, overrides)


def recipe_data(recipe: Recipe) -> dict[str, Any]:
    """The whole recipe as plain data, defaults filled in: what is saved as `recipe.yaml` beside the run."""
    return recipe.model_dump(mode="json")
