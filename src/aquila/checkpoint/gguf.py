"""Models in GGUF: architectures `llama` (interleaved rotary rows) and `qwen2` (half-split, with biases).

Source of key and tensor names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from aquila.checkpoint.checkpoint import Checkpoint, require_complete
from aquila.checkpoint.gguf_file import read_gguf_file
from aquila.checkpoint.names import GGUF, half_split_rows, reorder_rotary
from aquila.checkpoint.tensors import LazyTensor
from aquila.errors import CheckpointError, ConfigError
from aquila.model.config import ModelConfig, RopeScaling, parse_config
from aquila.tokenizer.gguf_vocab import from_gguf

log = logging.getLogger(__name__)

ARCHITECTURES = {"llama": False, "qwen2": True}  # -> q, k and v have biases
ROPE_SCALING = "aquila.rope_scaling"  # our own key, JSON: GGUF has no exact words for dynamic and llama3
ROPE_FACTORS = "rope_freqs.weight"  # divisors of the rotary frequencies: how GGUF states llama3 scaling


def read_gguf(path: Path) -> Checkpoint:
    """Opens a GGUF file of a supported architecture."""
    file = read_gguf_file(path)
    if file.metadata.get("split.count", 1) != 1:
        raise CheckpointError(
            f"{path}: is one part of {file.metadata['split.count']}; join them first with llama.cpp's "
            "`gguf-split --merge`"
        )
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ConfigError(
            f"{path}: architecture {architecture!r:.40} is not Llama-shaped; known: {', '.join(ARCHITECTURES)}"
        )
    found = dict(file.tensors)
    factors = found.pop(ROPE_FACTORS, None)
    config = _read_config(_Metadata(file.metadata, architecture, path), found, factors)
    canonical = {GGUF.to_canonical(name): tensor for name, tensor in found.items()}
    tensors = require_complete(canonical, config, path, GGUF.from_canonical)
    if architecture == "llama":
        tensors = reorder_rotary(tensors, config, half_split_rows)
    record = {"name": file.metadata.get("general.name"), "licence": file.metadata.get("general.license")}
    manifest = {key: value for key, value in record.items() if isinstance(value, str)}
    has_tokenizer = "tokenizer.ggml.tokens" in file.metadata
    return Checkpoint(path, "gguf", config, tensors, manifest, has_tokenizer, lambda: from_gguf(file.metadata))


class _Metadata:
    """Looks up `<architecture>.<key>` with messages that name the file."""

    def __init__(self, values: Mapping[str, Any], architecture: str, path: Path) -> None:
        self.values = values
        self.architecture = architecture
        self.path = path

    def get(self, key: str) -> Any:
        return self.values.get(f"{self.architecture}.{key}")

    def require(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise CheckpointError(
                f"{self.path}: the metadata lacks {self.architecture}.{key}; this file describes no model, "
                "fetch another"
            )
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number, as the decimal it was meant to be: GGUF keeps 1e-05 as 9.999999747378752e-06."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(
                f"{self.path}: {self.architecture}.{key} is {value!r:.40} where a number is expected; "
                "the file is damaged, fetch it again"
            )
        return float(str(np.float32(value)))

    def count(self, key: str) -> Any:
        """A number of heads or a width: some files state one for each layer, which must then all agree."""
        value = self.require(key)
        if not isinstance(value, list):
            return value
        if not value or any(item != value[0] for item in value):
            raise ConfigError(f"{self.path}: {self.architecture}.{key} differs between layers, which is not supported")
        return value[0]


def _read_config(metadata: _Metadata, tensors: Mapping[str, LazyTensor], factors: LazyTensor | None) -> ModelConfig:
    path, values = metadata.path, metadata.values
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{path}: has no token_embd.weight; it is not a whole language model, fetch another file")
    heads = metadata.count("attention.head_count")
    grouped = metadata.get("attention.head_count_kv") is not None
    fields = {
        "vocab_size": embedding.shape[0],
        "hidden_size": metadata.require("embedding_length"),
        "intermediate_size": metadata.count("feed_forward_length"),
        "num_hidden_layers": metadata.require("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.count("attention.head_count_kv") if grouped else heads,
        "max_position_embeddings": metadata.require("context_length"),
        "rms_norm_eps": metadata.number("attention.layer_norm_rms_epsilon", 0.0),
        "rope_theta": metadata.number("rope.freq_base", 10000.0),
        "rope_scaling": _read_scaling(metadata, factors),
        "tie_word_embeddings": "output.weight" not in tensors,
        "qkv_bias": ARCHITECTURES[metadata.architecture],
        "bos_token_id": values.get("tokenizer.ggml.bos_token_id"),
        "eos_token_ids": _ends(values),
        "pad_token_id": values.get("tokenizer.ggml.padding_token_id"),
    }
    if metadata.get("attention.key_length") is not None:
        fields["head_dim"] = metadata.get("attention.key_length")
    config = parse_config(fields, str(path))
    for key in ("rope.dimension_count", "attention.value_length"):
        if metadata.get(key) not in (None, config.head_dim):
            raise ConfigError(
                f"{path}: {metadata.architecture}.{key} is {metadata.get(key)!r:.40} but heads have "
                f"{config.head_dim} dimensions; partial rotation is not supported"
            )
    return config


def _ends(values: Mapping[str, Any]) -> tuple[int, ...]:
    ids = (values.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    return tuple(dict.fromkeys(token_id for token_id in ids if token_id is not None))


def _read_scaling(metadata: _Metadata, factors: LazyTensor | None) -> RopeScaling | None:
    if ROPE_SCALING in metadata.values:
        return _parse_scaling(metadata.values[ROPE_SCALING], metadata.path)
    kind = metadata.get("rope.scaling.type") or "none"
    factor = metadata.number("rope.scaling.factor", metadata.number("rope.scale_linear", 1.0))
    if kind not in ("none", "linear"):
        raise ConfigError(f"{metadata.path}: rope scaling {kind!r:.40} is not supported; linear and llama3 are")
    if factors is not None:
        return _read_llama3(metadata, factors)
    if factor != 0.0 and not 1.0 <= factor <= 1024.0:  # 0 is how some files say none
        raise ConfigError(f"{metadata.path}: the rope scaling factor {factor!r} is not between 1 and 1024")
    if factor in (0.0, 1.0) or (kind == "none" and metadata.get("rope.scaling.type")):
        return None
    return RopeScaling(type="linear", factor=factor)


def _parse_scaling(text: Any, path: Path) -> RopeScaling:
    try:
        return RopeScaling.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise CheckpointError(
            f"{path}: {ROPE_SCALING} is {text!r:.80}: {problem}; the file is damaged, fetch it again"
        ) from None


def _read_llama3(metadata: _Metadata, factors: LazyTensor) -> RopeScaling:
    """The parameters of llama3 scaling from its factors: all released models share the constants."""
    found = factors.numpy(np.dtype(np.float32)).reshape(-1)
    theta = metadata.number("rope.freq_base", 10000.0)
    contexts = (8192, int(metadata.number("context_length", 8192)))
    for original in contexts if 1.0 <= float(found.max()) <= 1024.0 and min(theta, *contexts) > 0 else ():
        scaling = RopeScaling(
            type="llama3",
            factor=float(found.max()),
            low_freq_factor=1.0,
            original_max_position_embeddings=original,
        )
        if np.allclose(found, llama3_factors(scaling, 2 * len(found), theta), rtol=1e-4):
            return scaling
    raise ConfigError(
        f"{metadata.path}: {ROPE_FACTORS} is not the scaling of any known Llama 3; convert the model from "
        "its original files"
    )


def llama3_factors(scaling: RopeScaling, head_dim: int, rope_theta: float) -> np.ndarray:
    """What llama3 scaling divides each rotary frequency by, float32 `[head_dim / 2]`.

    Long waves are stretched by `factor`, short ones not at all, those between by a blend (Llama 3.1).
    """
    wavelength = 2 * math.pi * rope_theta ** (np.arange(0, head_dim, 2) / head_dim)
    context = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = np.clip((context / wavelength - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / scaling.factor + smooth)).astype(np.float32)
