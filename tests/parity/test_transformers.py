"""Our decoder against transformers' Llama and Qwen2 on the same random weights, fp32."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from aquila.model.config import ModelConfig, from_hugging_face
from aquila.model.transformer import Transformer

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
CASES = {
    "MHA": {"num_key_value_heads": 8},
    "GQA": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1},
    "tied": {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "wide heads": {"num_key_value_heads": 4, "head_dim": 16},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "factor": 8.0,
            "rope_theta": 500.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
}


def reference(name: str) -> LlamaForCausalLM | Qwen2ForCausalLM:
    torch.manual_seed(7)
    if name == "biased":
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_key_value_heads=2))
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                torch.nn.init.normal_(parameter)
        return model.eval()
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, **CASES[name]})).eval()


def ours_from(model: LlamaForCausalLM | Qwen2ForCausalLM) -> Transformer:
    config = from_hugging_face(model.config.to_dict(), "transformers")
    ours = Transformer(config)
    ours.load_state_dict(model.state_dict(), strict=True)
    return ours.eval()


@pytest.mark.parametrize("name", [*CASES, "biased"])
def test_logits_equal_transformers(name):
    """Also beyond the trained context, where dynamic scaling changes the base."""
    theirs = reference(name)
    ours = ours_from(theirs)
    input_ids = torch.randint(0, SHAPE["vocab_size"], (2, 100))
    with torch.inference_mode():
        expected, found = theirs(input_ids).logits, ours(input_ids)
    assert (expected - found).abs().max() <= 1e-4
    assert expected.abs().max() > 1  # the comparison is not one of zeros


def test_gradients_equal_transformers():
    """The training path (no oneDNN) computes the same function."""
    theirs = reference("GQA")
    ours = ours_from(theirs)
    input_ids = torch.randint(0, SHAPE["vocab_size"], (2, 40))
    for model in (theirs, ours):
        out = model(input_ids)
        logits = out if isinstance(out, torch.Tensor) else out.logits
        logits.float().log_softmax(-1)[..., 3].sum().backward()
    expected = dict(theirs.named_parameters())["model.layers.1.self_attn.k_proj.weight"].grad
    found = ours.get_parameter("model.layers.1.self_attn.k_proj.weight").grad
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_both_rope_conventions_agree():
    """Rows of q and k permuted inside each head turn one convention into the other."""
    theirs = reference("GQA")
    half = ours_from(theirs)
    config = ModelConfig(**{**half.config.model_dump(), "rope_interleaved": True})
    interleaved = Transformer(config).eval()
    state = half.state_dict()
    for key, weight in state.items():
        if key.endswith(("q_proj.weight", "k_proj.weight")):
            heads = weight.view(-1, 2, config.head_dim // 2, config.hidden_size)
            state[key] = heads.transpose(1, 2).reshape(weight.shape)
    interleaved.load_state_dict(state)
    input_ids = torch.randint(0, SHAPE["vocab_size"], (1, 50))
    with torch.inference_mode():
        torch.testing.assert_close(interleaved(input_ids), half(input_ids), rtol=0, atol=1e-4)
