"""Sequences of fixed length out of documents: cut from the stream of a shard, or packed whole.

A *piece* is a run of tokens of one document; n tokens take n - 1 places of a sequence, since the last is only ever
predicted. Cuts overlap by that one token, so that each token but the first of its document is predicted exactly once
in an epoch, whatever the packing.

Rows are int64 `[4, length]`: input_ids, labels, document_ids, positions, as in `Batch`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from aquila.data.batch import IGNORE, PADDING
from aquila.data.fim import FillInTheMiddle
from aquila.data.packing import Bins
from aquila.data.shards import Shard


@dataclass(frozen=True)
class Piece:
    """Tokens of one document, in order.

    Attributes:
        token_ids: `[tokens]`.
        learned: which of them are targets, `[tokens]`; all when None.
    """

    token_ids: np.ndarray
    learned: np.ndarray | None = None


@runtime_checkable  # the type checks of the tests ask it
class Sequences(Protocol):
    """A source of sequences of one length: a part of a mixture."""

    @property
    def num_sequences(self) -> int: ...

    @property
    def num_tokens(self) -> int: ...

    def row(self, index: int, key: int) -> np.ndarray:
        """One sequence, `[4, length]`. `key` decides what is random about it."""
        ...


def assemble(pieces: Sequence[Piece], length: int, *, document_mask: bool) -> np.ndarray:
    """A row with the pieces one after another and padding behind them.

    Pieces of one token have nothing to predict and are left out. Without a document mask all pieces are one document:
    the last token of a piece predicts the first of the next.
    """
    row = np.zeros((4, length), dtype=np.int64)
    row[1:3] = np.array([[IGNORE], [PADDING]])
    if document_mask:
        pieces = [piece for piece in pieces if len(piece.token_ids) > 1]
    else:
        learned = [np.ones(len(p.token_ids), dtype=bool) if p.learned is None else p.learned for p in pieces]
        pieces = [Piece(np.concatenate([p.token_ids for p in pieces]), np.concatenate(learned))] if pieces else []
    place = 0
    for document, piece in enumerate(pieces):
        stop = place + len(piece.token_ids) - 1
        assert stop <= length, "pieces are cut to fit before they come here"
        row[0, place:stop] = piece.token_ids[:-1]
        targets = piece.token_ids[1:].astype(np.int64)
        row[1, place:stop] = targets if piece.learned is None else np.where(piece.learned[1:], targets, IGNORE)
        row[2, place:stop] = document
        row[3, place:stop] = np.arange(stop - place)
        place = stop
    return row


class ConcatSequences:
    """A run of a shard's documents, end to end, cut every `length` tokens; the last sequence is padded.

    Args:
        shard: where the tokens are.
        documents: which of its documents.
        length: of a sequence.
        document_mask: keep documents apart: no place learns to predict the next document's first token.
        fim: rearranges documents; a cut is shorter by the room it needs.

    Attributes:
        stride: tokens that a sequence is cut by.
    """

    def __init__(
        self,
        shard: Shard,
        documents: range,
        length: int,
        *,
        document_mask: bool = True,
        fim: FillInTheMiddle | None = None,
    ) -> None:
        self._shard, self._length, self._mask, self._fim = shard, length, document_mask, fim
        self._start, self._stop = int(shard.starts[documents.start]), int(shard.starts[documents.stop])
        mean = (self._stop - self._start) / max(1, len(documents))
        self.stride = length - (fim.reserve(length, mean) if fim else 0)

    @property
    def num_tokens(self) -> int:
        return self._stop - self._start

    @property
    def num_sequences(self) -> int:
        return -(-max(0, self.num_tokens - 1) // self.stride)

    def row(self, index: int, key: int) -> np.ndarray:
        start = self._start + index * self.stride
        stop = min(start + self.stride + 1, self._stop)
        tokens = self._shard.tokens[start:stop]
        cuts = _starts_between(self._shard.starts, start, stop)
        if self._fim is not None:
            pieces = self._fim.rearrange_all(np.split(tokens, cuts - start), self._length, key, masked=self._mask)
            return assemble([Piece(piece) for piece in pieces], self._length, document_mask=self._mask)
        return _window(tokens, cuts - start, self._length, document_mask=self._mask)


class PackedSequences:
    """Whole pieces put together, as many as fit, in the same company each time.

    Args:
        bins: which pieces go together.
        read: the piece of an index.
        length: of a sequence.
        num_tokens: of all pieces together, without counting a token twice.
        document_mask: keep pieces apart.
        fim: rearranges pieces, where there is room.
    """

    def __init__(
        self,
        bins: Bins,
        read: Callable[[int], Piece],
        length: int,
        *,
        num_tokens: int,
        document_mask: bool = True,
        fim: FillInTheMiddle | None = None,
    ) -> None:
        self._bins, self._read, self._length, self._mask, self._fim = bins, read, length, document_mask, fim
        self.num_tokens = num_tokens

    @property
    def num_sequences(self) -> int:
        return len(self._bins)

    def row(self, index: int, key: int) -> np.ndarray:
        pieces = [self._read(item) for item in self._bins[index]]
        if self._fim is not None:
            tokens = [piece.token_ids for piece in pieces]
            pieces = [Piece(p) for p in self._fim.rearrange_all(tokens, self._length, key, masked=self._mask)]
        return assemble(pieces, self._length, document_mask=self._mask)


def cut_documents(starts: np.ndarray, documents: range, places: int) -> np.ndarray:
    """Pieces of at most `places` + 1 tokens, each one cut overlapping the next by a token, int64 `[pieces, 2]`.

    A row is first token and end in the shard. Documents of fewer than two tokens have nothing to predict and are left
    out.
    """
    begin = starts[documents.start : documents.stop]
    end = starts[documents.start + 1 : documents.stop + 1]
    counts = np.maximum(0, -(-(end - begin - 1) // places))
    document = np.repeat(np.arange(len(begin)), counts)
    ordinal = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = begin[document] + ordinal * places
    return np.stack([first, np.minimum(first + places + 1, end[document])], axis=1)


def _starts_between(starts: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Places after `start` and before `stop` where a document begins."""
    inside = starts[np.searchsorted(starts, start, side="right") : np.searchsorted(starts, stop, side="left")]
    return np.unique(inside)  # empty documents begin where the next one does


def _window(tokens: np.ndarray, cuts: np.ndarray, length: int, *, document_mask: bool) -> np.ndarray:
    """A row from consecutive tokens, of which the last is only predicted. `cuts` are where documents begin."""
    count = len(tokens) - 1
    row = np.zeros((4, length), dtype=np.int64)
    row[1:3] = np.array([[IGNORE], [PADDING]])
    row[0, :count] = tokens[:-1]
    row[1, :count] = tokens[1:]
    row[2, :count] = 0
    row[3, :count] = np.arange(count)
    if document_mask:
        row[1, cuts - 1] = IGNORE
        for document, (start, stop) in enumerate(zip(cuts, [*cuts[1:], count], strict=False), start=1):
            row[2, start:stop] = document
            row[3, start:stop] = np.arange(stop - start)
    return row
