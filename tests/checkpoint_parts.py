"""Small checkpoints of every format, with random weights."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aquila.checkpoint.checkpoint import Checkpoint, Export
from aquila.checkpoint.flagai import write_flagai
from aquila.checkpoint.gguf_writer import plan_gguf, write_gguf
from aquila.checkpoint.hf import write_hf
from aquila.checkpoint.names import expected_tensors, interleaved_rows, reorder_rotary
from aquila.checkpoint.native import write_native
from aquila.checkpoint.tensors import DTYPES, LazyTensor, from_array
from aquila.model.config import ModelConfig
from aquila.tokenizer.tokenizer import Tokenizer
from aquila.tokenizer.train import train_tokenizer


def tiny_config(**changes: Any) -> ModelConfig:
    """Two layers, four query heads on two key heads; every row divides into blocks of 32."""
    fields: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return ModelConfig(**(fields | changes))


def random_tensors(config: ModelConfig, dtype: str = "fp32", seed: int = 0) -> dict[str, LazyTensor]:
    """Canonical tensors of a model, normally distributed."""
    generator = np.random.default_rng(seed)
    return {
        name: from_array(generator.standard_normal(shape, np.float32).astype(DTYPES[dtype]))
        for name, shape in expected_tensors(config).items()
    }


def tiny_tokenizer() -> Tokenizer:
    texts = ["def is_prime(n):\n    return n > 1", "补全代码，快速排序。"]
    return train_tokenizer(texts, vocab_size=300, min_frequency=1)


def export(config: ModelConfig, dtype: str = "fp32", **fields: Any) -> Export:
    """A random model, ready to be written."""
    return Export(config, random_tensors(config, dtype), dtype, **fields)


def write(what: Export, path: Path, kind: str, quantize: str | None = None) -> Path:
    """Writes a checkpoint of any format and returns its path."""
    if kind == "gguf":
        write_gguf(what, path, plan_gguf(what, quantize))
        return path
    path.mkdir()
    {"native": write_native, "hf": write_hf, "flagai": write_flagai}[kind](what, path)
    return path


def with_interleaved_rows(checkpoint: Checkpoint) -> Checkpoint:
    """The same model with the rotary pairs of q and k side by side, as one that is trained may have them."""
    config = checkpoint.config
    return dataclasses.replace(
        checkpoint,
        config=config.model_copy(update={"rope_interleaved": True}),
        tensors=reorder_rotary(checkpoint.tensors, config, interleaved_rows),
    )


def assert_equal(found: Mapping[str, LazyTensor], expected: Mapping[str, LazyTensor]) -> None:
    """The same tensors in the same order, value for value."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name].numpy(DTYPES["fp32"]), tensor.numpy(DTYPES["fp32"]), err_msg=name)
