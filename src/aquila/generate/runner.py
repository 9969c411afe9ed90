"""What runs a step of the model. The engine speaks to it in token ids and page numbers and knows nothing else of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from aquila.checkpoint.adapter import Adapter


@dataclass(frozen=True)
class SequenceStep:
    """The part of one sequence that a step computes.

    Attributes:
        token_ids: the tokens to compute, in order: one and its drafts while decoding, a chunk of the prompt before.
        start: position of the first of them; everything before it is in the pages already.
        pages: page table of the sequence; covers at least `start + len(token_ids)` positions.
        num_logits: the logits of the last so many tokens are wanted: 0 inside a prompt, else 1 and one a draft.
        adapter: what `Runner.load_adapter` gave, 0 for the model as it is; the same in every step of a sequence.
    """

    token_ids: Sequence[int]
    start: int
    pages: Sequence[int]
    num_logits: int
    adapter: int = 0


@runtime_checkable  # the tests check arguments as they are passed
class Runner(Protocol):
    """Computes steps over a pool of `num_pages` pages of `page_size` tokens each."""

    @property
    def page_size(self) -> int: ...

    @property
    def num_pages(self) -> int: ...

    @property
    def max_context(self) -> int:
        """Positions a sequence may have at most."""
        ...

    @property
    def vocab_size(self) -> int:
        """Entries of a row of logits, and of the embedding."""
        ...

    @property
    def draft_tokens(self) -> int:
        """Guessed tokens a sequence that it is good to compute along in a step; 0 where that gains nothing."""
        ...

    @property
    def row_cost(self) -> float:
        """What one more row adds to the time of a step, where a step of one row takes 1."""
        ...

    def load_adapter(self, adapter: Adapter) -> int:
        """Reads the weights of an adapter of this model; gives its number, 1 or more."""
        ...

    def step(self, batch: Sequence[SequenceStep]) -> Float[np.ndarray, "rows vocab"]:
        """Writes the keys and values of all tokens to the pages; gives the wanted logits in the order of the batch.

        What a page holds from `start` on is stale (a draft that was wrong): it is written over, never read.
        """
        ...
