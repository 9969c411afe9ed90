"""The loader: a batch is a function of (step, seed, data), and of nothing else.

There is no state to save. Step n of a run is the same batch after a restart, on one process or on a hundred, and
`aquila data peek --step n` shows it. What the batches depend on has a digest: two runs with one digest see the same.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from aquila.data.batch import IGNORE, Batch
from aquila.data.blend import Blend, Permutation, key_of
from aquila.data.config import DataConfig
from aquila.data.sequences import Sequences, assemble
from aquila.data.sidecar import tokenizer_digest
from aquila.data.sources import Source, open_sources
from aquila.errors import ConfigError, DataError
from aquila.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_ORDER_VERSION = 1  # raised when the same settings would give other batches


@dataclass(frozen=True)
class Place:
    """Where a sequence of a run comes from: sequence `index` of a source, in its pass number `epoch`."""

    source: str
    epoch: int
    index: int


def open_loader(
    config: DataConfig,
    *,
    stage: str,
    tokenizer: Tokenizer | None,
    vocab_size: int,
    global_batch_size: int,
    seed: int,
) -> "Loader":
    """Opens and checks all that a run reads.

    Args:
        config: the `data:` section.
        stage: pretrain, continue or sft.
        tokenizer: of the model; None for a model without one.
        vocab_size: rows of the model's embedding.
        global_batch_size: sequences of a step, over all processes and accumulation.
        seed: of the order and of what is random in a sequence.

    Raises:
        ConfigError: settings that do not go together.
        DataError: files that cannot be read, do not fit the model, or are too few for a batch.
    """
    if tokenizer is not None and tokenizer.vocab_size > vocab_size:
        raise DataError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model {vocab_size}; they do not belong together"
        )
    sources = open_sources(config, stage=stage, tokenizer=tokenizer, vocab_size=vocab_size)
    return Loader(
        sources, config, tokenizer=tokenizer, vocab_size=vocab_size, global_batch_size=global_batch_size, seed=seed
    )


class Loader:
    """Batches by step number; made by `open_loader`.

    Attributes:
        identity: what the batches depend on, as JSON: sources, tokenizer, settings. Compare it where digests differ.
        digest: SHA-256 of it.
        num_sequences: of all sources together; a run of so many has seen a single source once.
        num_tokens: of all sources together.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        config: DataConfig,
        *,
        tokenizer: Tokenizer | None,
        vocab_size: int,
        global_batch_size: int,
        seed: int,
    ) -> None:
        if global_batch_size < 1:
            raise ConfigError(f"global_batch_size: must be positive, got {global_batch_size}")
        self.global_batch_size, self.sequence_length = global_batch_size, config.sequence_length
        self._config, self._tokenizer, self._vocab_size, self._seed = config, tokenizer, vocab_size, seed
        self._sources = [(source, source.sequences) for source in sources if source.sequences is not None]
        self._measured = [(source, source.held_out) for source in sources if source.held_out is not None]
        self._blend = Blend([source.weight for source, _ in self._sources])
        self.num_sequences = sum(sequences.num_sequences for _, sequences in self._sources)
        self.num_tokens = sum(sequences.num_tokens for _, sequences in self._sources)
        if global_batch_size > self.num_sequences:
            raise DataError(
                f"a batch of {global_batch_size} sequences is larger than the data, which makes {self.num_sequences} "
                f"of {self.sequence_length} tokens; lower train.global_batch_size or data.sequence_length, or give more"
            )
        self.identity: dict[str, Any] = {
            "order": _ORDER_VERSION,
            "sources": [{"weight": s.weight, **s.identity} for s, _ in self._sources],
            "tokenizer": tokenizer_digest(tokenizer) if tokenizer is not None else None,
            "sequence_length": config.sequence_length,
            "document_mask": config.document_mask,
            "packing": config.packing,
            "fim": config.fim.model_dump(),
            "global_batch_size": global_batch_size,
            "seed": seed,
        }
        self.digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        self._permutations: dict[tuple[int, int], Permutation] = {}

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Batch:
        """One process's part of the batch of a step: rows [rank * G / world, (rank + 1) * G / world) of it.

        Args:
            step: from 0.
            rank: of this process among those that read different sequences.
            world: how many those are.

        Raises:
            DataError: `world` does not divide the batch, or the data holds an id that the model does not have.
        """
        if self.global_batch_size % world:
            raise DataError(
                f"a batch of {self.global_batch_size} sequences cannot be shared out to {world} processes; make it a "
                "multiple of that"
            )
        size = self.global_batch_size // world
        first = step * self.global_batch_size + rank * size
        rows = []
        for number in range(first, first + size):
            source, epoch, index = self._locate(number)
            rows.append(self._sources[source][1].row(index, key_of(self._seed, "row", source, epoch, index)))
        return self.check_ids(_batch(rows), f"step {step}")

    def places(self, step: int) -> list[Place]:
        """Where each sequence of a step comes from."""
        first = step * self.global_batch_size
        located = (self._locate(first + row) for row in range(self.global_batch_size))
        return [Place(self._sources[source][0].name, epoch, index) for source, epoch, index in located]

    def report(self, num_steps: int | None = None) -> dict[str, Any]:
        """What `num_steps` steps read of each source (None: the shares of the mixture), and what was left out."""
        counts = self._blend.counts(num_steps * self.global_batch_size) if num_steps else self._blend.quotas
        tokens = [n * s.num_tokens / s.num_sequences for n, (_, s) in zip(counts, self._sources, strict=True)]
        weights = sum(source.weight for source, _ in self._sources)
        rows, warnings = [], []
        for (source, sequences), count, read in zip(self._sources, counts, tokens, strict=True):
            row: dict[str, Any] = {
                "name": source.name,
                "num_tokens": sequences.num_tokens,
                "num_sequences": sequences.num_sequences,
                "share_wanted": source.weight / weights,
                "share": read / sum(tokens),
            }
            if num_steps:
                row["epochs"] = int(count) / sequences.num_sequences
                if len(self._sources) > 1 and row["epochs"] > self._config.max_repeat:
                    warnings.append(f"{source.name} is read {row['epochs']:.1f} times; give more of it, or less weight")
            if source.counts is not None:
                row["conversations"] = source.counts.as_dict()
            rows.append(row)
        held_out = [
            {"name": source.name, "num_sequences": sequences.num_sequences, "num_tokens": sequences.num_tokens}
            for source, sequences in self._measured
        ]
        return {
            "num_sequences": self.num_sequences,
            "num_tokens": self.num_tokens,
            "sequence_length": self.sequence_length,
            "sources": rows,
            "validation": held_out,
            "warnings": warnings,
        }

    def validation(self, batch_size: int, max_batches: int | None = None) -> "list[ValidationSet]":
        """What the loss is measured on; empty where the config names nothing.

        Args:
            batch_size: sequences of a batch, over all processes: each takes its rows of it.
            max_batches: of a set, spread over all of it; every batch when None.
        """
        limit = None if max_batches is None else max_batches * batch_size
        return [ValidationSet(source.name, sequences, self, batch_size, limit) for source, sequences in self._measured]

    @cached_property
    def token_bytes(self) -> np.ndarray | None:
        """How many bytes of text each id stands for, `[vocab]`; None without a tokenizer."""
        if self._tokenizer is None:
            return None
        known = [len(self._tokenizer.token_bytes(token_id)) for token_id in range(self._tokenizer.vocab_size)]
        return np.array(known + [0] * (self._vocab_size - len(known)), dtype=np.int64)

    def check_ids(self, batch: Batch, where: str) -> Batch:
        """`DataError` if the batch has an id that the model does not."""
        highest, lowest = batch.input_ids.max(initial=0), batch.input_ids.min(initial=0)
        highest = max(highest, batch.labels.max(initial=0))
        if lowest < 0 or highest >= self._vocab_size:
            raise DataError(
                f"{where}: token id {int(lowest if lowest < 0 else highest)} is out of range, the model's ids are 0 to "
                f"{self._vocab_size - 1}; pack the text with the model's tokenizer"
            )
        return batch

    def _locate(self, number: int) -> tuple[int, int, int]:
        """Source, epoch and sequence of sequence `number` of the run."""
        source, ordinal = self._blend.locate(number)
        epoch, place = divmod(ordinal, self._sources[source][1].num_sequences)
        order = self._permutations.get((source, epoch))
        if order is None:
            if len(self._permutations) > 2 * len(self._sources):
                self._permutations.clear()
            size = self._sources[source][1].num_sequences
            order = self._permutations[source, epoch] = Permutation(size, key_of(self._seed, "order", source, epoch))
        return source, epoch, order(place)


class ValidationSet:
    """Batches to measure on, the same at every evaluation.

    Attributes:
        name: of the source or language.
        num_sequences: that hold something.
    """

    def __init__(
        self, name: str, sequences: Sequences, loader: Loader, batch_size: int, max_sequences: int | None
    ) -> None:
        self.name = name
        self.num_sequences = min(sequences.num_sequences, max_sequences or sequences.num_sequences)
        self._sequences, self._loader, self._batch_size = sequences, loader, batch_size

    @property
    def batches(self) -> Iterator[Batch]:
        """All of them, from the first. Each has `batch_size` rows; the last is filled up with padding."""
        for first in range(0, self.num_sequences, self._batch_size):
            numbers = range(first, first + self._batch_size)
            rows = [self._row(number) if number < self.num_sequences else self._padding() for number in numbers]
            yield self._loader.check_ids(_batch(rows), f"validation {self.name}")

    @cached_property
    def num_targets(self) -> int:
        """Tokens that are predicted."""
        return sum(int(np.count_nonzero(self._row(number)[1] != IGNORE)) for number in range(self.num_sequences))

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of text that those tokens stand for, which nats are divided by for bits per byte; 0 if unknown."""
        sizes = self._loader.token_bytes
        if sizes is None:
            return 0
        labels = (self._row(number)[1] for number in range(self.num_sequences))
        return sum(int(sizes[each[each != IGNORE]].sum()) for each in labels)

    def _row(self, number: int) -> np.ndarray:
        return self._sequences.row(number * self._sequences.num_sequences // self.num_sequences, 0)

    def _padding(self) -> np.ndarray:
        return assemble([], self._loader.sequence_length, document_mask=True)


def _batch(rows: Sequence[np.ndarray]) -> Batch:
    stacked = np.stack(rows)  # [batch, 4, seq]
    return Batch(*(np.ascontiguousarray(stacked[:, part]) for part in range(4)))
