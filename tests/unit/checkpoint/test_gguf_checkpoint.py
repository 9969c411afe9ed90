"""GGUF models: config, tensors and tokenizer, there and back."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from aquila.checkpoint.convert import convert
from aquila.checkpoint.gguf import llama3_factors
from aquila.checkpoint.names import GGUF, interleaved_rows, reorder_rotary
from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.tensors import DTYPES
from aquila.errors import AquilaError, CheckpointError, ConfigError
from aquila.model.config import RopeScaling
from checkpoint_parts import assert_equal, export, random_tensors, tiny_config, tiny_tokenizer, write


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"qkv_bias": True},
        {"head_dim": 16},
        {"rms_norm_eps": 1e-6, "rope_theta": 1234567.0},
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_scaling": {"type": "llama3", "factor": 8.0}},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"bos_token_id": 1, "eos_token_ids": (2, 3, 4), "pad_token_id": 0},
    ],
)
def test_config_and_tensors_survive(tmp_path: Path, changes: dict[str, Any]):
    """Numbers that GGUF keeps as float32 come back as the decimals they were."""
    config = tiny_config(**changes)
    checkpoint = open_checkpoint(write(export(config), tmp_path / "a.gguf", "gguf"))
    assert checkpoint.config == config
    assert_equal(checkpoint.tensors, random_tensors(config))


@pytest.mark.parametrize(("dtype", "kind"), [("fp32", "F32"), ("fp16", "F16"), ("bf16", "BF16")])
def test_the_gguf_package_reads_the_same_tensors(tmp_path: Path, dtype: str, kind: str):
    """Interleaved rotary rows, float32 norms, matrices in the asked dtype."""
    config = tiny_config()
    path = write(export(config, dtype), tmp_path / "a.gguf", "gguf")
    expected = reorder_rotary(random_tensors(config, dtype), config, interleaved_rows)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert list(found) == [GGUF.from_canonical(name) for name in expected]
    for name, tensor in expected.items():
        theirs = found[GGUF.from_canonical(name)]
        assert theirs.tensor_type.name == (kind if len(tensor.shape) == 2 else "F32")
        values = gguf.quants.dequantize(theirs.data, theirs.tensor_type).reshape(tensor.shape)
        np.testing.assert_array_equal(values, tensor.numpy(DTYPES["fp32"]), err_msg=name)


@pytest.mark.parametrize("quantize", ["q8_0", "q4_0"])
def test_quantising_is_the_gguf_packages_own(tmp_path: Path, quantize: str):
    path = write(export(tiny_config()), tmp_path / "a.gguf", "gguf", quantize)
    expected = random_tensors(tiny_config())
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name in ("blk.1.ffn_up.weight", "output.weight"):
            name = "Q8_0" if tensor.name == "output.weight" else quantize.upper()
            kind = gguf.GGMLQuantizationType[name]
            rows = expected[GGUF.to_canonical(tensor.name)].numpy()
            assert tensor.tensor_type == kind
            np.testing.assert_array_equal(tensor.data, gguf.quants.quantize(rows, kind))


@pytest.mark.parametrize("quantize", ["q8_0", "q4_0"])
def test_quantised_blocks_are_copied_not_quantised_again(tmp_path: Path, quantize: str):
    first = write(export(tiny_config(), record={"name": "a"}), tmp_path / "a.gguf", "gguf", quantize)
    second = convert(first, tmp_path / "b.gguf", to="gguf", quantize=quantize)
    assert second.read_bytes() == first.read_bytes()


def test_rows_that_do_not_divide_into_blocks_stay_plain(tmp_path: Path):
    config = tiny_config(hidden_size=48, num_attention_heads=2, num_key_value_heads=1)
    checkpoint = open_checkpoint(write(export(config), tmp_path / "a.gguf", "gguf", "q8_0"))
    assert checkpoint.tensors["model.embed_tokens.weight"].quantised is None
    assert checkpoint.tensors["model.layers.0.mlp.down_proj.weight"].quantised is not None


def test_tokenizer_and_chat_template_travel(tmp_path: Path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    path = write(export(tiny_config(), tokenizer=tokenizer), tmp_path / "a.gguf", "gguf")
    checkpoint = open_checkpoint(path)
    back = checkpoint.load_tokenizer()
    text = "def is_prime(n): 快速排序 <|fim_prefix|>"
    assert back.encode(text, allow_special=True) == tokenizer.encode(text, allow_special=True)
    assert back.chat_template == tokenizer.chat_template
    assert checkpoint.config.eos_token_ids == tuple(tokenizer.eos_token_ids[:1])


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path):
    """llama.cpp refuses a file whose vocabulary and embedding differ; this one could not be padded to fit."""
    with pytest.raises(AquilaError, match="belongs to another model"):
        write(export(tiny_config(vocab_size=290), tokenizer=tiny_tokenizer()), tmp_path / "a.gguf", "gguf")


def _write_metadata(path: Path, values: dict[str, Any], rope_freqs: np.ndarray | None = None) -> Path:
    writer = gguf.GGUFWriter(path, values.pop("architecture", "llama"))
    for key, value in values.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_array)(key, value)
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), np.float32))
    if rope_freqs is not None:
        writer.add_tensor("rope_freqs.weight", rope_freqs)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


SHAPE = {
    "llama.embedding_length": 8,
    "llama.feed_forward_length": 8,
    "llama.block_count": 1,
    "llama.attention.head_count": 2,
    "llama.context_length": 16,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gpt2"}, "architecture 'gpt2' is not Llama-shaped"),
        ({"split.count": 3}, "is one part of 3; join them first"),
        ({"llama.rope.dimension_count": 2}, "partial rotation is not supported"),
        ({"llama.rope.scaling.type": "yarn"}, "rope scaling 'yarn' is not supported"),
        ({"llama.attention.head_count_kv": [1, 2]}, "head_count_kv differs between layers"),
        ({"llama.attention.head_count": 0}, "num_attention_heads"),
        ({"llama.attention.head_count": "two"}, "num_attention_heads"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon is nan"),
        ({"llama.rope.freq_base": "high"}, "freq_base is 'high' where a number is expected"),
        ({"llama.rope.scaling.factor": "high"}, "scaling.factor is 'high' where a number is expected"),
        ({"llama.rope.scaling.factor": -2.0}, "factor -2.0 is not between 1 and 1024"),
        ({"llama.embedding_length": 4_000_000_000}, "hidden_size"),
        ({"llama.block_count": 4_000_000_000}, "num_hidden_layers"),
        ({"llama.context_length": None}, r"lacks llama\.context_length"),
        ({}, r"10 missing: blk\.0\.attn_norm\.weight"),
    ],
)
def test_metadata_that_describes_no_model_of_ours_is_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    values = {key: value for key, value in (SHAPE | changes).items() if value is not None}
    with pytest.raises((ConfigError, CheckpointError), match=message):
        open_checkpoint(_write_metadata(tmp_path / "a.gguf", values))


LLAMA3 = RopeScaling(type="llama3", factor=32.0)


@pytest.mark.parametrize(
    ("factors", "known"), [(llama3_factors(LLAMA3, 64, 500000.0), True), (np.full(32, 2.0, np.float32), False)]
)
def test_rope_factors_of_other_programs_are_recognised_or_refused(tmp_path: Path, factors: np.ndarray, known: bool):
    """Passing over them would give a model that is wrong at every long prompt."""
    values = {**SHAPE, "llama.attention.key_length": 64, "llama.rope.freq_base": 500000.0}
    path = _write_metadata(tmp_path / "a.gguf", values, factors)
    message = "10 missing" if known else r"rope_freqs\.weight is not the scaling of any known Llama 3"
    with pytest.raises((ConfigError, CheckpointError), match=message):
        open_checkpoint(path)
