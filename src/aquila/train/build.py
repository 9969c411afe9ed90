"""The model of a run, in pieces on its devices, with its first weights.

Built on the meta device, given adapters, cut and wrapped, and only then allocated: no process ever holds the whole of
it."""

import numpy as np
import torch
from torch import Tensor, nn

from aquila.checkpoint.quantised_base import fill_quantised
from aquila.checkpoint.tensors import LazyTensor
from aquila.checkpoint.torch_model import TORCH_DTYPES, as_torch
from aquila.model.lora import add_lora, init_lora, lora_names
from aquila.model.quantised import quantise_base
from aquila.model.transformer import Transformer
from aquila.train.parallel import parallelise
from aquila.train.plan import Plan
from aquila.train.ranks import Ranks
from aquila.train.shards import initialise, local, local_slices


def build_model(plan: Plan, ranks: Ranks) -> Transformer:
    """The model with its initial weights, ready to train."""
    model = meta_model(plan)
    parallelise(model, ranks, plan.recipe.parallel)
    materialise(model, torch.device("cpu") if plan.recipe.parallel.offload else ranks.device)
    fill(model, plan)
    return model.train()


def meta_model(plan: Plan) -> Transformer:
    """The model without storage, adapters included. A frozen base is kept in the precision that it is computed in."""
    with torch.device("meta"):
        model = Transformer(plan.model)
    lora = plan.recipe.lora
    if lora is None:
        return model
    if lora.quantize is not None:
        quantise_base(model, lora.quantize)
    add_lora(model, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets)
    dtype = TORCH_DTYPES[plan.recipe.parallel.precision]
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return model


def materialise(model: Transformer, device: torch.device) -> None:
    """Allocates the pieces. `to_empty` makes a new parameter for each place, so a tied head is tied again."""
    model.to_empty(device=device)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight


def fill(model: Transformer, plan: Plan) -> None:
    """Random weights from the seed, or those of the checkpoint; adapters begin as nothing."""
    seed = plan.recipe.train.seed
    if plan.checkpoint is None:
        initialise(model, seed, plan.model.initializer_range)
        return
    done = fill_quantised(model, plan.checkpoint.tensors) if plan.recipe.lora and plan.recipe.lora.quantize else set()
    adapters = set(lora_names(model))
    for name, parameter in model.named_parameters():
        if name not in adapters and name not in done:
            load_tensor(parameter, plan.checkpoint.tensors[name])
    if plan.recipe.lora is not None:
        init_lora(model, seed)


@torch.no_grad()
def load_tensor(parameter: nn.Parameter | Tensor, lazy: LazyTensor) -> None:
    """Reads this device's piece of a tensor, about 16 MiB of the file at a time."""
    piece, slices = local(parameter), local_slices(parameter)
    start, stop = slices[0].start or 0, lazy.shape[0] if slices[0].stop is None else slices[0].stop
    row_bytes = max(1, 4 * lazy.num_elements // max(1, lazy.shape[0]))
    rows = max(1, (16 << 20) // row_bytes)
    for first in range(start, stop, rows):
        last = min(first + rows, stop)
        block = np.ascontiguousarray(lazy.read(first, last)[(slice(None), *slices[1:])])
        piece[first - start : last - start].copy_(as_torch(block))
