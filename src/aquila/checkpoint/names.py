"""One table of tensor names and the row orders of the rotary embedding.

Canonical form, which every reader produces and every writer takes: Hugging Face Llama names, `[out, in]`
matrices, and the rows of q and k half-split, so that row i of a head turns together with row i + head_dim /
2. FlagAI and the `llama` architecture of GGUF keep the pairs side by side (2i, 2i + 1).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from aquila.checkpoint.tensors import LazyTensor, take_rows
from aquila.model.config import ModelConfig

_OUTSIDE = (  # canonical, FlagAI, GGUF
    ("model.embed_tokens.weight", "tok_embeddings.weight", "token_embd.weight"),
    ("model.norm.weight", "norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight", "output.weight"),
)
_PER_LAYER = (  # below `model.layers.N.`, `layers.N.` and `blk.N.`
    ("input_layernorm.weight", "attention_norm.weight", "attn_norm.weight"),
    ("self_attn.q_proj.weight", "attention.wq.weight", "attn_q.weight"),
    ("self_attn.k_proj.weight", "attention.wk.weight", "attn_k.weight"),
    ("self_attn.v_proj.weight", "attention.wv.weight", "attn_v.weight"),
    ("self_attn.q_proj.bias", "attention.wq.bias", "attn_q.bias"),
    ("self_attn.k_proj.bias", "attention.wk.bias", "attn_k.bias"),
    ("self_attn.v_proj.bias", "attention.wv.bias", "attn_v.bias"),
    ("self_attn.o_proj.weight", "attention.wo.weight", "attn_output.weight"),
    ("post_attention_layernorm.weight", "ffn_norm.weight", "ffn_norm.weight"),
    ("mlp.gate_proj.weight", "feed_forward.w1.weight", "ffn_gate.weight"),
    ("mlp.up_proj.weight", "feed_forward.w3.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "feed_forward.w2.weight", "ffn_down.weight"),
)
_LAYER = re.compile(r"([a-z.]+\.)(\d{1,5})\.(.+)")


@dataclass(frozen=True)
class Naming:
    """Names of one format: `outside` and `per_layer` lead from canonical names to the format's own."""

    layers: str
    outside: Mapping[str, str]
    per_layer: Mapping[str, str]

    def from_canonical(self, name: str) -> str:
        """The format's name of a canonical tensor."""
        if name in self.outside:
            return self.outside[name]
        index, _, rest = name.removeprefix("model.layers.").partition(".")
        return f"{self.layers}{index}.{self.per_layer[rest]}"

    def to_canonical(self, name: str) -> str:
        """The canonical name of a tensor of this format. One that is not in the table is marked as such."""
        for ours, theirs in self.outside.items():
            if theirs == name:
                return ours
        match = _LAYER.fullmatch(name)
        if match and match[1] == self.layers:
            for ours, theirs in self.per_layer.items():
                if theirs == match[3]:
                    return f"model.layers.{match[2]}.{ours}"
        return f"{name} (unknown)"  # never a canonical name by chance


FLAGAI = Naming("layers.", {row[0]: row[1] for row in _OUTSIDE}, {row[0]: row[1] for row in _PER_LAYER})
GGUF = Naming("blk.", {row[0]: row[2] for row in _OUTSIDE}, {row[0]: row[2] for row in _PER_LAYER})


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical names and shapes in file order: layer by layer, q, k, v and gate, up adjacent."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    shapes = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (config.q_size, hidden),
        "self_attn.k_proj.weight": (config.kv_size, hidden),
        "self_attn.v_proj.weight": (config.kv_size, hidden),
        "self_attn.q_proj.bias": (config.q_size,),
        "self_attn.k_proj.bias": (config.kv_size,),
        "self_attn.v_proj.bias": (config.kv_size,),
        "self_attn.o_proj.weight": (hidden, config.q_size),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (ffn, hidden),
        "mlp.up_proj.weight": (ffn, hidden),
        "mlp.down_proj.weight": (hidden, ffn),
    }
    layer = {name: shape for name, shape in shapes.items() if config.qkv_bias or not name.endswith(".bias")}
    expected: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for index in range(config.num_hidden_layers):
        expected |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    expected["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        expected["lm_head.weight"] = (config.vocab_size, hidden)
    return expected


def half_split_rows(num_heads: int, head_dim: int) -> np.ndarray:
    """Row indices that make interleaved rotary rows half-split: `half_split = interleaved[rows]`."""
    return np.arange(num_heads * head_dim).reshape(num_heads, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def interleaved_rows(num_heads: int, head_dim: int) -> np.ndarray:
    """The inverse of `half_split_rows`."""
    return np.arange(num_heads * head_dim).reshape(num_heads, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)


def reorder_rotary(
    tensors: Mapping[str, LazyTensor], config: ModelConfig, rows: Callable[[int, int], np.ndarray]
) -> dict[str, LazyTensor]:
    """Canonically named tensors with the rows of q and k reordered by one of the two functions above."""
    reordered = dict(tensors)
    orders = {
        ".self_attn.q_proj.": rows(config.num_attention_heads, config.head_dim),
        ".self_attn.k_proj.": rows(config.num_key_value_heads, config.head_dim),
    }
    for name, tensor in tensors.items():
        for part, order in orders.items():
            if part in name:
                reordered[name] = take_rows(tensor, order)
    return reordered
