"""From the loader's arrays to what the model takes, on this rank's device.

Shapes: batch = rows of a micro-batch; seq = places of a sequence that this rank computes (a part of it under context
parallel)."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from aquila.data.batch import IGNORE, Batch
from aquila.data.loader import Loader
from aquila.model.transformer import Attend, causal_attention
from aquila.train.attention import document_attention
from aquila.train.ranks import Ranks
from aquila.train.ulysses import ulysses


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """What one forward pass takes. `length` is that of whole sequences; `num_targets` counts this rank's labels."""

    input_ids: Int[Tensor, "batch seq"]
    positions: Int[Tensor, "batch seq"]
    labels: Int[Tensor, "batch seq"]
    attend: Attend
    length: int
    num_targets: int


def micro_batch(batch: Batch, ranks: Ranks, *, document_mask: bool) -> MicroBatch:
    """Some rows of a batch, on the device. Under context parallel only this rank's columns of them."""
    length = batch.input_ids.shape[1]
    columns = ranks.columns(length)
    labels = batch.labels[:, columns]
    attend = document_attention(batch.document_ids, ranks.device) if document_mask else causal_attention
    return MicroBatch(
        _put(batch.input_ids[:, columns], ranks.device),
        _put(batch.positions[:, columns], ranks.device),
        _put(labels, ranks.device),
        ulysses(attend, ranks),
        length,
        int(np.count_nonzero(labels != IGNORE)),
    )


def _put(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class Batches:
    """This rank's rows of each step's batch; the next one is read while the present one is computed."""

    def __init__(self, loader: Loader, ranks: Ranks, *, first: int, stop: int) -> None:
        self._loader, self._ranks = loader, ranks
        self._first, self._stop = first, stop

    def __iter__(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(1, thread_name_prefix="batch") as pool:
            waiting: Future[Batch] | None = None
            for step in range(self._first, self._stop):
                ready = waiting or pool.submit(self._read, step)
                batch = ready.result()
                waiting = pool.submit(self._read, step + 1) if step + 1 < self._stop else None
                yield batch

    def _read(self, step: int) -> Batch:
        return self._loader.batch(step, rank=self._ranks.data_rank, world=self._ranks.data_world)
