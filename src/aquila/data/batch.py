"""What the loader hands to the trainer: rows of token ids, what to predict at each place, and which document it is in.

Shapes: batch = sequences, seq = places in a sequence.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

IGNORE = -100  # a label that nothing is learned from; torch's default ignore_index
PADDING = -1  # the document id of places without a token


@dataclass(frozen=True)
class Batch:
    """Sequences to learn from.

    Attributes:
        input_ids: token ids; 0 in padding.
        labels: the id to predict at each place, already shifted: `labels[b, i]` follows `input_ids[b, i]`. `IGNORE`
            where nothing is learned: prompts, the place where a document ends, padding.
        document_ids: 0, 1, 2 ... within a row; `PADDING` (-1) behind the last token. A place may attend to earlier
            places of the same document only.
        positions: place within its document as far as it is in this row, from 0.
    """

    input_ids: Int64[np.ndarray, "batch seq"]
    labels: Int64[np.ndarray, "batch seq"]
    document_ids: Int64[np.ndarray, "batch seq"]
    positions: Int64[np.ndarray, "batch seq"]

    @property
    def num_targets(self) -> int:
        """How many places have something to predict: what a sum of losses is divided by."""
        return int(np.count_nonzero(self.labels != IGNORE))

    @property
    def num_tokens(self) -> int:
        """How many places hold a token."""
        return int(np.count_nonzero(self.document_ids != PADDING))

    def rows(self, start: int, stop: int) -> "Batch":
        """Some of the sequences."""
        columns = (self.input_ids, self.labels, self.document_ids, self.positions)
        return Batch(*(each[start:stop] for each in columns))
