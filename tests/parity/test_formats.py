"""One model through every format: value for value the same, and readable by the programs the formats belong to."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from aquila.checkpoint.convert import convert
from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.tensors import DTYPES
from checkpoint_parts import assert_equal, export, random_tensors, tiny_config, tiny_tokenizer, write


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_flagai_to_hf_to_gguf_to_native_is_exact(tmp_path: Path, dtype: str):
    config = tiny_config()
    tokenizer = tiny_tokenizer()
    path = write(export(config, dtype, tokenizer=tokenizer), tmp_path / "flagai", "flagai")
    expected_config = open_checkpoint(path).config
    for to, name in (("hf", "hf"), ("gguf", "a.gguf"), ("native", "native"), ("flagai", "again")):
        path = convert(path, tmp_path / name, to=to)
        checkpoint = open_checkpoint(path)
        assert checkpoint.dtype == dtype
        assert checkpoint.config == expected_config
        assert_equal(checkpoint.tensors, random_tensors(config, dtype))
        assert checkpoint.load_tokenizer().encode("def 快速排序():") == tokenizer.encode("def 快速排序():")
    ours, first = (tmp_path / name / "pytorch_model.bin" for name in ("again", "flagai"))
    states = [torch.load(file, weights_only=True) for file in (ours, first)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"qkv_bias": True}, {"head_dim": 16}])
@pytest.mark.parametrize("kind", ["hf", "native"])
def test_transformers_loads_our_folders_completely(tmp_path: Path, changes: dict[str, Any], kind: str):
    """No missing, unexpected or mismatched keys: what `strict=False` would hide."""
    path = write(export(tiny_config(**changes), "fp16"), tmp_path / "a", kind)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not any(info.values()), info
    expected = random_tensors(tiny_config(**changes), "fp16")
    state = model.state_dict()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(state[name].float().numpy(), tensor.numpy(DTYPES["fp32"]), err_msg=name)


def test_transformers_reads_our_tokenizer(tmp_path: Path):
    tokenizer = tiny_tokenizer()
    path = write(export(tiny_config(), tokenizer=tokenizer), tmp_path / "a", "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    text = "def is_prime(n):\n    return 快速排序"
    assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert theirs.eos_token_id == tokenizer.eos_token_ids[0]


def test_we_read_what_transformers_saves(tmp_path: Path):
    """Sharded, bf16, with the tied head left out, as save_pretrained does it."""
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        rope_theta=5000.0,
        eos_token_id=3,
    )
    model = transformers.LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(tmp_path / "a", max_shard_size="10KB")
    checkpoint = open_checkpoint(tmp_path / "a")
    assert (checkpoint.config.rope_theta, checkpoint.config.eos_token_ids) == (5000.0, (3,))
    for name, tensor in checkpoint.tensors.items():
        theirs = model.state_dict()[name].float().numpy()
        np.testing.assert_array_equal(tensor.numpy(DTYPES["fp32"]), theirs, err_msg=name)


def test_a_quantised_gguf_converts_to_what_the_gguf_package_dequantises(tmp_path: Path):
    path = write(export(tiny_config(qkv_bias=True)), tmp_path / "a.gguf", "gguf", "q8_0")
    tensors = open_checkpoint(convert(path, tmp_path / "out", to="hf", dtype="fp32")).tensors
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == "blk.0.attn_q.weight":  # qwen2: rotary rows are half-split in the file too
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            np.testing.assert_array_equal(tensors["model.layers.0.self_attn.q_proj.weight"].numpy(), values)
