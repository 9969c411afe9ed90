"""Spreads a model over the devices of a run: tensor parallel, compiled and checkpointed blocks, FSDP, in this order.

Sources: tensor and sequence parallel: Shoeybi et al. 2019, arXiv:1909.08053, section 3, and Korthikanti et al. 2022,
arXiv:2205.05198, section 4.2; FSDP: Zhao et al. 2023, arXiv:2304.11277. Parameters keep their names in all of this.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from aquila.checkpoint.torch_model import TORCH_DTYPES
from aquila.model.loss import linear_cross_entropy, losses_and_slope
from aquila.model.transformer import Attend, Block, Transformer
from aquila.train.activation_checkpointing import checkpoint_block
from aquila.train.ranks import Ranks
from aquila.train.recipe import ParallelConfig
from aquila.train.vocab_parallel import vocab_parallel_loss


def parallelise(model: Transformer, ranks: Ranks, config: ParallelConfig) -> None:
    """Cuts the parameters of `model` over the devices, in place, and sets how its blocks run.

    The model is on the meta device, or on this one with the same weights everywhere. Gradients become sums over all
    tokens of the run: the caller divides the loss, nothing here does. After this, `forward` is called on the model
    itself, never on a part of it.

    Raises:
        ConfigError: a size of the model cannot be cut that way.
    """
    ranks.layout.check(model.config)
    if ranks.layout.tp > 1:
        _cut_tensors(model, ranks)
    for block in model.model.layers:
        assert isinstance(block, Block)
        if config.compile:
            _compile(block)
        checkpoint_block(block, config.activation_checkpointing)
    if config.compile:
        model.sum_loss = _CompiledLoss()
    if ranks.mesh is not None:
        _cut_parameters(model, ranks, config)


def _compile(block: Block) -> None:
    """Compiles the forward pass of `block`, in place. Hooks of FSDP and recomputation stay outside."""
    block.self_attn.attended = _Uncompiled(block.self_attn.layer)
    block.forward = torch.compile(block.forward)


class _CompiledLoss:
    """The loss, of which what happens between its products is compiled: softmax, losses and slope in one pass."""

    def __init__(self) -> None:
        self.losses_of = torch.compile(losses_and_slope)

    def __call__(self, hidden: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, head.weight, labels, losses_of=self.losses_of)


class _Uncompiled:
    """Attention of one layer, outside what is compiled: blocks that differ in nothing else share one compilation."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    @torch.compiler.disable
    def __call__(self, attend: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(self.layer, query, key, value)


def reshard(model: nn.Module) -> None:
    """Back to pieces, after forward passes that no backward pass follows: those leave the last weights gathered."""
    if isinstance(model, FSDPModule):
        model.reshard()


def tensor_parallel_plan() -> dict[str, Any]:
    """Who holds what under tensor parallel.

    Between the matrices each device has a part of the sequence (Shard(1) of [batch, seq, hidden]); inside attention and
    feed-forward it has the whole sequence and a part of the heads, or of the intermediate features.
    """
    cut, whole = Shard(1), Replicate()
    return {
        "model.embed_tokens": RowwiseParallel(input_layouts=whole, output_layouts=cut),
        "model.layers.*.input_layernorm": SequenceParallel(),
        "model.layers.*.self_attn": PrepareModuleInput(
            input_layouts=(cut, None, None), desired_input_layouts=(whole, None, None)
        ),
        "model.layers.*.self_attn.q_proj": ColwiseParallel(),
        "model.layers.*.self_attn.k_proj": ColwiseParallel(),
        "model.layers.*.self_attn.v_proj": ColwiseParallel(),
        "model.layers.*.self_attn.o_proj": RowwiseParallel(output_layouts=cut),
        "model.layers.*.post_attention_layernorm": SequenceParallel(),
        "model.layers.*.mlp": PrepareModuleInput(input_layouts=cut, desired_input_layouts=whole),
        "model.layers.*.mlp.gate_proj": ColwiseParallel(),
        "model.layers.*.mlp.up_proj": ColwiseParallel(),
        "model.layers.*.mlp.down_proj": RowwiseParallel(output_layouts=cut),
        "model.norm": SequenceParallel(),
        "lm_head": ColwiseParallel(input_layouts=cut, output_layouts=whole),
    }


def _cut_tensors(model: Transformer, ranks: Ranks) -> None:
    assert ranks.mesh is not None
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    parallelize_module(model, ranks.mesh["tp"], tensor_parallel_plan())
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight  # the plan cut it once for each
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained[name])  # torch makes new ones, which are all trained
    model.sum_loss = vocab_parallel_loss


def _cut_parameters(model: Transformer, ranks: Ranks, config: ParallelConfig) -> None:
    """FSDP over each block; embedding, last norm and head with the model itself, whose `forward` computes the loss.

    Weights are kept, and gradients summed, in fp32; with another precision weights are cast as they are gathered.
    Inputs are not cast: rotation tables stay in fp32.
    """
    assert ranks.mesh is not None
    dtype = TORCH_DTYPES[config.precision]
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    offload = CPUOffloadPolicy(pin_memory=ranks.device.type != "cpu") if config.offload else OffloadPolicy()
    dims = ("dp_replicate", "dp_shard") if ranks.layout.dp_replicate > 1 else ("dp_shard",)
    options: dict[str, Any] = {"mesh": ranks.mesh[dims], "mp_policy": policy, "offload_policy": offload}
    for block in model.model.layers:
        fully_shard(block, **options)
    if ranks.layout.tp == 1 and not model.config.tie_word_embeddings:  # under tp what is left of it is small
        fully_shard(model.model.embed_tokens, **options)
    fully_shard(model, **options)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo cannot scale while it sums
