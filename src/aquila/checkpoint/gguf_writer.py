"""Writes GGUF files that llama.cpp runs: F32, F16, BF16, Q8_0 or Q4_0 matrices, float32 norms and biases."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aquila.checkpoint.checkpoint import Export
from aquila.checkpoint.gguf import ROPE_FACTORS, ROPE_SCALING, llama3_factors
from aquila.checkpoint.gguf_file import ALIGNMENT
from aquila.checkpoint.names import GGUF, interleaved_rows, reorder_rotary
from aquila.checkpoint.tensors import DTYPES, LazyTensor, as_bytes, from_array
from aquila.model.config import ModelConfig
from aquila.tokenizer.gguf_vocab import to_gguf

log = logging.getLogger(__name__)

QUANTISATIONS = ("q8_0", "q4_0")
_BLOCK = 32  # elements a block of either holds
_PLAIN = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
_DTYPES = {"F32": DTYPES["fp32"], "F16": DTYPES["fp16"], "BF16": DTYPES["bf16"]}
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}  # general.file_type of llama.cpp


@dataclass(frozen=True)
class Stored:
    """A tensor and the GGUF type it is written as."""

    tensor: LazyTensor
    type: str

    @property
    def num_bytes(self) -> int:
        if self.type in _DTYPES:
            return self.tensor.num_elements * _DTYPES[self.type].itemsize
        return self.tensor.num_elements // _BLOCK * {"Q8_0": 34, "Q4_0": 18}[self.type]

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """The tensor's bytes as the file holds them, some rows at a time."""
        packed = self.tensor.quantised
        if packed is not None and packed.type.upper() == self.type:
            yield from packed.rows.chunks()  # the same blocks again: exact
        elif self.type in _DTYPES:
            yield from self.tensor.chunks(_DTYPES[self.type], name)
        else:
            from gguf import GGMLQuantizationType, quants  # noqa: PLC0415  0.1 s that nothing else needs

            for block in self.tensor.chunks(np.dtype(np.float32), name):
                yield quants.quantize(block, GGMLQuantizationType[self.type])


def plan_gguf(export: Export, quantize: str | None) -> dict[str, Stored]:
    """GGUF names in file order -> what is written under them.

    Under q4_0 the head (and an embedding tied to it) is stored as q8_0: 4 bits there cost more accuracy than
    in any other matrix, which is why llama.cpp spares it too.
    """
    config = export.config
    tensors = export.tensors
    if not config.qkv_bias:
        tensors = reorder_rotary(tensors, config, interleaved_rows)
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    plan = {}
    for name, tensor in tensors.items():
        kind = _PLAIN[export.dtype]
        if len(tensor.shape) == 1:
            kind = "F32"
        elif quantize and tensor.shape[1] % _BLOCK:
            log.warning("%s stays %s: rows of %d are no whole blocks of 32", name, kind, tensor.shape[1])
        elif quantize:
            kind = "Q8_0" if name == head else quantize.upper()
        plan[GGUF.from_canonical(name)] = Stored(tensor, kind)
    scaling = config.rope_scaling
    if scaling is not None and scaling.type == "llama3":
        factors = llama3_factors(scaling, config.head_dim, config.rope_theta)
        plan[ROPE_FACTORS] = Stored(from_array(factors), "F32")
    return plan


def write_gguf(export: Export, path: Path, plan: Mapping[str, Stored]) -> None:
    """Writes one file; `plan` is from `plan_gguf`. The caller makes the file appear whole or not at all."""
    from gguf import GGMLQuantizationType, GGUFWriter  # noqa: PLC0415  as above

    architecture = "qwen2" if export.config.qkv_bias else "llama"
    writer = GGUFWriter(path, architecture)
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in _metadata(export, architecture, plan).items():
        add.get(type(value), writer.add_array)(key, value)
    for name, stored in plan.items():
        kind = GGMLQuantizationType[stored.type]
        shape = stored.tensor.shape
        writer.add_tensor_info(name, shape, np.dtype(np.float32), stored.num_bytes, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    with path.open("ab") as file:  # the package's own writer wants each tensor whole in memory
        for name, stored in plan.items():
            file.write(bytes(-file.tell() % ALIGNMENT))
            for block in stored.blocks(name):
                file.write(as_bytes(block))
                export.progress(block.nbytes)
        file.write(bytes(-file.tell() % ALIGNMENT))


def _metadata(export: Export, architecture: str, plan: Mapping[str, Stored]) -> dict[str, Any]:
    """All key/values but the architecture, which the writer adds by itself."""
    sizes: dict[str, int] = {}
    for stored in plan.values():
        sizes[stored.type] = sizes.get(stored.type, 0) + stored.tensor.num_elements
    main = max(sizes, key=lambda kind: sizes[kind])
    values = {
        "general.type": "model",
        "general.name": export.record.get("name"),
        "general.version": export.record.get("version"),
        "general.license": export.record.get("licence"),
        "general.file_type": _FILE_TYPES[main],
        "general.quantization_version": 2 if main.startswith("Q") else None,
    }
    values |= {f"{architecture}.{key}": value for key, value in _shape(export.config).items()}
    if export.config.rope_scaling is not None:
        values[ROPE_SCALING] = export.config.rope_scaling.model_dump_json()
    values |= _special_ids(export)
    return {key: value for key, value in values.items() if value is not None}


def _special_ids(export: Export) -> dict[str, Any]:
    """The tokenizer, and end tokens that only the model's config knows."""
    config = export.config
    values: dict[str, Any] = {
        "tokenizer.ggml.bos_token_id": config.bos_token_id,
        "tokenizer.ggml.eos_token_id": config.eos_token_ids[0] if config.eos_token_ids else None,
        "tokenizer.ggml.padding_token_id": config.pad_token_id,
    }
    if export.tokenizer is not None:
        values |= to_gguf(export.tokenizer, vocab_size=config.vocab_size)
    more = [end for end in config.eos_token_ids if end != values["tokenizer.ggml.eos_token_id"]]
    names = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")  # GGUF has room for two more
    return values | dict(zip(names, more, strict=False))


def _shape(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    linear = scaling is not None and scaling.type == "linear"
    if scaling is not None and scaling.type == "dynamic":
        log.warning(
            "GGUF has no dynamic rope scaling: for others than us the file is right up to %d positions",
            config.max_position_embeddings,
        )
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope_theta),
        "rope.scaling.type": "linear" if linear else None,
        "rope.scaling.factor": float(scaling.factor) if linear else None,
    }
