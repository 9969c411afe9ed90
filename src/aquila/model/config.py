"""The shape of a model, with the field names of a Hugging Face `config.json`. Imports no torch.

One dataclass serves the whole family: Aquila, Aquila2, Llama, SmolLM2 and, with `qkv_bias`, Qwen2.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aquila.errors import ConfigError

LLAMA_LIKE = {
    "llama": False,
    "aquila": False,
    "mistral": False,
    "qwen2": True,
}  # model_type -> has q, k, v biases


class RopeScaling(BaseModel):
    """Stretches rotary positions beyond the trained context.

    linear: positions / factor (Chen et al. 2023, arXiv:2306.15595). dynamic: the base grows with the sequence once it
    passes `max_position_embeddings` (NTK-aware, as in transformers). llama3: only low frequencies are stretched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["linear", "dynamic", "llama3"]
    factor: float = Field(ge=1.0, le=1024.0)
    low_freq_factor: float = Field(1.0, gt=0)
    high_freq_factor: float = Field(4.0, gt=0)
    original_max_position_embeddings: int = Field(8192, gt=0)


class ModelConfig(BaseModel):
    """Sizes and constants of a decoder. `ConfigError` on anything that cannot be a model."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    vocab_size: int = Field(ge=2, le=1 << 22)
    hidden_size: int = Field(ge=1, le=1 << 17)
    intermediate_size: int = Field(ge=1, le=1 << 19)
    num_hidden_layers: int = Field(ge=1, le=1024)
    num_attention_heads: int = Field(ge=1, le=4096)
    num_key_value_heads: int = Field(ge=1, le=4096)
    head_dim: int = Field(ge=2, le=4096)
    max_position_embeddings: int = Field(ge=1, le=1 << 24)
    rms_norm_eps: float = Field(1e-5, gt=0, lt=1)
    rope_theta: float = Field(10000.0, gt=1)
    rope_scaling: RopeScaling | None = None
    rope_interleaved: bool = False  # rotary pairs (2i, 2i + 1) as in FlagAI and Meta; False: (i, i + head_dim / 2)
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    initializer_range: float = Field(0.02, gt=0, lt=10)
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_derived(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("num_attention_heads"), int):
            data = dict(data)
            data.setdefault("num_key_value_heads", data["num_attention_heads"])
            if isinstance(data.get("hidden_size"), int) and data["num_attention_heads"] > 0:
                data.setdefault("head_dim", data["hidden_size"] // data["num_attention_heads"])
        return data

    @model_validator(mode="after")
    def _sizes_agree(self) -> "ModelConfig":
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary embedding needs pairs")
        return self

    @property
    def q_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_key_value_heads * self.head_dim


def parse_config(data: Mapping[str, Any], where: str) -> ModelConfig:
    """Validates fields that carry our names. `where` (a path) leads the message of the `ConfigError`."""
    try:
        return ModelConfig.model_validate(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "config"
        shown = "" if first["type"] in {"missing", "value_error"} else f", got {first['input']!r:.40}"
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: {field}: {message}{shown}; the file is damaged or not a model config") from None


def _rope(raw: Mapping[str, Any], where: str) -> tuple[float, RopeScaling | None]:
    """Rotary base and scaling: transformers 5 writes `rope_parameters`, older files `rope_theta` and `rope_scaling`."""
    for key in ("rope_parameters", "rope_scaling"):
        found = raw.get(key) or {}
        if not isinstance(found, Mapping) or not isinstance(found.get("rope_type") or found.get("type") or "", str):
            raise ConfigError(f"{where}: {key} {found!r:.40} is not a kind of scaling; the file is damaged")
    parameters = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = raw.get("rope_theta") or parameters.get("rope_theta") or 10000.0
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind not in {"linear", "dynamic", "llama3"}:
        raise ConfigError(f"{where}: rope scaling {kind!r} is not supported; use linear, dynamic or llama3")
    known = {key: parameters[key] for key in RopeScaling.model_fields if key in parameters}
    try:
        return theta, RopeScaling.model_validate({**known, "type": kind})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{where}: rope_scaling.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def from_hugging_face(raw: Mapping[str, Any], where: str) -> ModelConfig:
    """Reads a Hugging Face `config.json` (already parsed). Keys that do not shape the model are passed over."""
    model_type = raw.get("model_type", "llama")
    if not isinstance(model_type, str):
        raise ConfigError(f"{where}: model_type {model_type!r:.40} is not text; the file is damaged")
    if model_type not in LLAMA_LIKE:
        raise ConfigError(
            f"{where}: model_type {model_type!r} is not a Llama-shaped architecture; "
            f"known: {', '.join(sorted(LLAMA_LIKE))}"
        )
    if raw.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"{where}: hidden_act {raw['hidden_act']!r} is not supported; the family uses silu")
    if raw.get("mlp_bias") or (raw.get("attention_bias") and not LLAMA_LIKE[model_type]):
        raise ConfigError(f"{where}: biases outside q, k, v are not supported (attention_bias / mlp_bias)")
    theta, scaling = _rope(raw, where)
    fields = {key: raw[key] for key in ModelConfig.model_fields if raw.get(key) is not None}
    for derived in ("rope_scaling", "eos_token_ids", "rope_interleaved", "qkv_bias"):
        fields.pop(derived, None)
    eos = raw.get("eos_token_id")
    fields |= {
        "rope_theta": theta,
        "rope_scaling": scaling,
        "qkv_bias": LLAMA_LIKE[model_type],
        "eos_token_ids": () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
    }
    fields.setdefault("rms_norm_eps", 1e-6)  # the default of LlamaConfig, which the file leaves out
    fields.setdefault("max_position_embeddings", 2048)
    return parse_config(fields, where)


def to_hugging_face(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """A `config.json` that loads in transformers without remote code. `dtype` is torch's name, such as `bfloat16`."""
    model_type = "qwen2" if config.qkv_bias else "llama"
    eos: int | list[int] | None = list(config.eos_token_ids)
    if not eos:
        eos = None
    elif len(eos) == 1:
        eos = eos[0]
    scaling = config.rope_scaling
    rope: dict[str, Any] = {
        "rope_type": scaling.type if scaling else "default",
        "rope_theta": config.rope_theta,
    }
    if scaling:
        rope |= scaling.model_dump(
            exclude={"type"} if scaling.type == "llama3" else set(RopeScaling.model_fields) - {"factor"}
        )
    names = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
        "max_position_embeddings rms_norm_eps tie_word_embeddings initializer_range bos_token_id pad_token_id"
    )
    return {
        "architectures": ["Qwen2ForCausalLM" if config.qkv_bias else "LlamaForCausalLM"],
        "model_type": model_type,
        **{name: getattr(config, name) for name in names.split()},
        "eos_token_id": eos,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_scaling": None if scaling is None else {**rope, "type": scaling.type},
        "rope_parameters": rope,
        "attention_bias": False,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def ffn_size(dim: int, multiple_of: int, multiplier: float = 1.0) -> int:
    """Width of the FlagAI feed-forward: 2/3 of 4 dim, times `multiplier`, rounded up to `multiple_of`."""
    hidden = int(int(2 * (4 * dim) / 3) * multiplier)
    return multiple_of * math.ceil(hidden / multiple_of)
