"""Attention within documents: several documents share a row, and none of them sees another.

On a CUDA device in half precision the varlen kernel of torch does it in one call; elsewhere each document is one
exact call of `scaled_dot_product_attention`, which is also the least work: no score between two documents is ever
computed.

Neither may be traced by a compiler (parallel.py keeps them out): lengths differ in every batch.

Shapes: batch, seq; heads and kv_heads, head_dim; tokens = batch x seq, row after row.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from aquila.data.batch import PADDING
from aquila.model.transformer import Attend, causal_attention


def document_attention(document_ids: Int[np.ndarray, "batch seq"], device: torch.device) -> Attend:
    """How a layer attends in a batch whose documents are `document_ids` (host memory: nothing has to be waited for).

    Rows of a single document are full causal attention, padding behind it included: what is padded comes last.
    """
    lengths, padded = _runs(document_ids)
    if not _has_neighbours(document_ids):
        return causal_attention
    if device.type == "cuda":
        return _CudaDocuments(lengths, device)
    return _Documents(lengths, padded)


def _has_neighbours(document_ids: np.ndarray) -> bool:
    return bool(((document_ids[:, 1:] != document_ids[:, :-1]) & (document_ids[:, 1:] != PADDING)).any())


def _runs(document_ids: np.ndarray) -> tuple[list[int], list[bool]]:
    """Lengths of the stretches of equal id in each row, all rows in order; and which of them are padding."""
    batch, seq = document_ids.shape
    starts = np.ones((batch, seq), dtype=bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    first = np.flatnonzero(starts)
    lengths = np.diff(first, append=batch * seq)
    return lengths.tolist(), (document_ids.reshape(-1)[first] == PADDING).tolist()


class _Documents:
    """One call a document. Pieces come from `split`, whose gradient is one copy, not one a document."""

    def __init__(self, lengths: Sequence[int], padded: Sequence[bool]) -> None:
        self.lengths, self.padded = list(lengths), list(padded)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        pieces = zip(*(each.flatten(0, 1).split(self.lengths) for each in (query, key, value)), strict=True)
        outputs = [
            torch.zeros_like(q) if padded else causal_attention(layer, q[None], k[None], v[None])[0]
            for (q, k, v), padded in zip(pieces, self.padded, strict=True)
        ]
        return torch.cat(outputs).view(query.shape)


class _CudaDocuments:
    """torch's varlen kernel for half precision, one call a document for fp32, which it has no kernel for."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.edges = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32).to(device, non_blocking=True)
        self.longest = max(lengths)
        self.one_by_one = _Documents(lengths, [False] * len(lengths))

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if query.dtype == torch.float32:
            return self.one_by_one(layer, query, key, value)
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  initialises CUDA kernels

        grouped: dict[str, Any] = {"enable_gqa": True} if query.shape[2] != key.shape[2] else {}
        out: Any = varlen_attn(
            query.flatten(0, 1),
            key.flatten(0, 1),
            value.flatten(0, 1),
            self.edges,
            self.edges,
            self.longest,
            self.longest,
            window_size=(-1, 0),  # causal
            **grouped,
        )
        return out.view(query.shape)
