"""What a run measures on the way: loss and bits per byte of each validation set, and continuations of a few prompts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from aquila.data.loader import ValidationSet
from aquila.model.transformer import Transformer
from aquila.tokenizer.tokenizer import Tokenizer
from aquila.train.feed import micro_batch
from aquila.train.parallel import reshard
from aquila.train.ranks import Ranks

_ROUND = 64  # prompts and continuations together are padded to a multiple: few shapes, which devices can share equally


@dataclass(frozen=True)
class Measured:
    """Loss in nats a target token; bits per byte of the text, None where its bytes are not known."""

    name: str
    loss: float
    bits_per_byte: float | None
    num_targets: int


@torch.no_grad()
def evaluate(model: Transformer, sets: Sequence[ValidationSet], ranks: Ranks, *, document_mask: bool) -> list[Measured]:
    """Measures each set. All ranks call it together; each computes its rows, and all get the same figures."""
    model.eval()
    found = []
    for each in sets:
        nats, count = 0.0, 0
        for batch in each.batches:
            rows = len(batch.input_ids) // ranks.data_world
            own = batch.rows(ranks.data_rank * rows, (ranks.data_rank + 1) * rows)
            inputs = micro_batch(own, ranks, document_mask=document_mask)
            loss = model(
                inputs.input_ids, inputs.positions, attend=inputs.attend, length=inputs.length, labels=inputs.labels
            )
            nats, count = nats + float(loss), count + inputs.num_targets
        nats, count = ranks.sum(torch.tensor([nats, count], dtype=torch.float64)).tolist()
        bits = nats / math.log(2) / each.num_bytes if each.num_bytes else None
        found.append(Measured(each.name, nats / max(1, count), bits, int(count)))
    reshard(model)
    model.train()
    return found


@torch.no_grad()
def continue_prompts(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[str], ranks: Ranks, *, max_new_tokens: int
) -> list[str]:
    """The likeliest continuation of each prompt, all at once and without a cache, so that it runs on any mesh.

    All ranks call it together and compute the same rows.
    """
    start = [tokenizer.bos_token_id] if tokenizer.add_bos_token and tokenizer.bos_token_id is not None else []
    longest = model.config.max_position_embeddings
    sequences = [([*start, *tokenizer.encode(prompt)] or [0])[: longest - 1] for prompt in prompts]
    sizes = [len(sequence) for sequence in sequences]
    ends = set(tokenizer.eos_token_ids)
    running = set(range(len(sequences)))
    model.eval()
    for _ in range(max_new_tokens):
        running = {row for row in running if len(sequences[row]) < longest}
        if not running:
            break
        for row, token_id in _next_tokens(model, sequences, ranks).items():
            if row in running:
                sequences[row].append(token_id)
                if token_id in ends:
                    running.discard(row)
    reshard(model)
    model.train()
    return [tokenizer.decode(sequence[size:]) for sequence, size in zip(sequences, sizes, strict=True)]


def _next_tokens(model: Transformer, sequences: Sequence[Sequence[int]], ranks: Ranks) -> dict[int, int]:
    """The likeliest next token of each row. What is padded behind a row is not seen by it: attention is causal."""
    width = -(-max(map(len, sequences)) // _ROUND) * _ROUND
    padded = torch.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in sequences])
    logits = model(padded.to(ranks.device))  # [rows, width, vocab]
    last = torch.tensor([len(sequence) - 1 for sequence in sequences], device=logits.device)
    chosen = logits[torch.arange(len(sequences), device=logits.device), last].float().argmax(-1)
    return dict(enumerate(chosen.tolist()))
