"""The decoder of the whole family: RMSNorm, rotary grouped-query attention, SwiGLU.

Source: Touvron et al. 2023, arXiv:2302.13971, section 2.2; grouped queries: Ainslie et al. 2023, arXiv:2305.13245.
Module names are those of a Hugging Face Llama state dict, so a checkpoint loads without a table of names.
The model knows nothing of caches: whoever runs it says how attention is done (`attend`).

Shapes: batch, seq; hidden = hidden_size; heads = num_attention_heads, kv_heads = num_key_value_heads.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from aquila.model.config import ModelConfig
from aquila.model.linear import Linear, project
from aquila.model.loss import linear_cross_entropy
from aquila.model.rope import RotaryEmbedding, Rotation

# (layer, query [batch, seq, heads, head_dim], key and value [batch, seq, kv_heads, head_dim]) -> like query
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def causal_attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every position sees itself and what came before it in its row. The layer index is not needed."""
    heads, kv_heads = query.shape[2], key.shape[2]
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        is_causal=True,
        enable_gqa=heads != kv_heads,
    )
    return out.transpose(1, 2)


class RMSNorm(nn.Module):
    """Scale by the root mean square. Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
        if x.dtype == torch.float32:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype) * self.weight  # mean in fp32


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.q_proj = Linear(config.hidden_size, config.q_size, bias=config.qkv_bias)
        self.k_proj = Linear(config.hidden_size, config.kv_size, bias=config.qkv_bias)
        self.v_proj = Linear(config.hidden_size, config.kv_size, bias=config.qkv_bias)
        self.o_proj = Linear(config.q_size, config.hidden_size, bias=False)
        self.rope = RotaryEmbedding(config)

    def forward(
        self, x: Float[Tensor, "batch seq hidden"], rotation: Rotation, attend: Attend
    ) -> Float[Tensor, "batch seq hidden"]:
        query, key, value = project(x, self.q_proj, self.k_proj, self.v_proj)
        query = query.unflatten(-1, (-1, self.head_dim))  # [batch, seq, heads, head_dim]
        key = key.unflatten(-1, (-1, self.head_dim))  # [batch, seq, kv_heads, head_dim]
        value = value.unflatten(-1, (-1, self.head_dim))
        query, key = self.rope.rotate(query, rotation), self.rope.rotate(key, rotation)
        return self.o_proj(self.attended(attend, query, key, value).flatten(-2))

    def attended(self, attend: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What `attend` gives for this layer. Who compiles blocks replaces this: compiled code has no layer number."""
        return attend(self.layer, query, key, value)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) * up x). Source: Shazeer 2020, arXiv:2002.05202, eq. 6."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "batch seq hidden"]) -> Float[Tensor, "batch seq hidden"]:
        gate, up = project(x, self.gate_proj, self.up_proj)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    """Attention and feed-forward, each on the normed stream and added back to it."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Float[Tensor, "batch seq hidden"], rotation: Rotation, attend: Attend
    ) -> Float[Tensor, "batch seq hidden"]:
        x = x + self.self_attn(self.input_layernorm(x), rotation, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Embedding(nn.Embedding):
    """`nn.Embedding` that is left as allocated; on the meta device torch's own filling imports its compiler (1 s)."""

    def reset_parameters(self) -> None:
        pass


SumLoss = Callable[[Tensor, nn.Linear, Tensor], Tensor]  # hidden states, head, labels -> the sum of the losses


def sum_loss(
    hidden: Float[Tensor, "batch seq hidden"], head: nn.Linear, labels: Int[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    return linear_cross_entropy(hidden, head.weight, labels)


class Decoder(nn.Module):
    """Embedding, blocks and the last norm: token ids to hidden states."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rope = RotaryEmbedding(config)

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        positions: Int[Tensor, "batch seq"],
        attend: Attend,
        length: int,
    ) -> Float[Tensor, "batch seq hidden"]:
        x = self.embed_tokens(input_ids)  # [batch, seq, hidden]
        rotation = self.rope.tables(positions, length)
        for block in self.layers:
            x = block(x, rotation, attend)
        return self.norm(x)


class Transformer(nn.Module):
    """A causal language model: `forward` gives logits or a loss, `hidden` the states before the head.

    `sum_loss` turns hidden states and labels into the loss; a head that is spread over devices brings its own.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.sum_loss: SumLoss = sum_loss

    def hidden(
        self,
        input_ids: Int[Tensor, "batch seq"],
        positions: Int[Tensor, "batch seq"] | None = None,
        *,
        attend: Attend = causal_attention,
        length: int | None = None,
    ) -> Float[Tensor, "batch seq hidden"]:
        """Hidden states after the last norm.

        Args:
            input_ids: token ids.
            positions: place of each token in its sequence; 0, 1, 2 ... in each row when not given.
            attend: how a layer attends; full causal attention over the row by default.
            length: tokens of the longest sequence these rows belong to, for dynamic rotary scaling.
        """
        batch, seq = input_ids.shape
        if positions is None:
            positions = torch.arange(seq, device=input_ids.device).expand(batch, seq)
        return self.model(input_ids, positions, attend, seq if length is None else length)

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        positions: Int[Tensor, "batch seq"] | None = None,
        *,
        attend: Attend = causal_attention,
        length: int | None = None,
        labels: Int[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq vocab"] | Float[Tensor, ""]:
        """Logits; with `labels` (already shifted, -100 where nothing is learned) the sum of the losses, nats, fp32.

        The loss is computed here and not by the caller: where weights are sharded, the head is whole only in here.
        """
        hidden = self.hidden(input_ids, positions, attend=attend, length=length)
        return self.lm_head(hidden) if labels is None else self.sum_loss(hidden, self.lm_head, labels)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Normal weights with `initializer_range`, norms one, biases zero (the family's recipe)."""
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith(".bias"):
                parameter.zero_()
            else:
                parameter.normal_(0.0, self.config.initializer_range, generator=generator)
