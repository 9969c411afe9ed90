"""How well a model predicts a text: bits per byte, which models with different vocabularies can be compared by.

A text longer than the window is read in windows that overlap: each begins `stride` tokens after the one before it, and
only tokens that no window has scored yet are counted, so that (but for the first window) every token is predicted from
at least `window - stride` tokens.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from aquila.errors import ConfigError
from aquila.generate.runner import Runner, SequenceStep
from aquila.tokenizer.tokenizer import Tokenizer

_MAX_LOGITS_BYTES = 64 << 20  # of one step
_MAX_STEP_TOKENS = 256


@dataclass(frozen=True)
class Score:
    """What a text cost: `nats` is the negative log-likelihood of `num_tokens` tokens that make up `num_bytes` bytes."""

    num_bytes: int
    num_tokens: int
    nats: float

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.num_bytes

    @property
    def perplexity(self) -> float:
        """Of a token. Infinite where it is too large for a float."""
        mean = self.nats / self.num_tokens
        return math.exp(mean) if mean < 700 else math.inf

    def __add__(self, other: "Score") -> "Score":
        return Score(self.num_bytes + other.num_bytes, self.num_tokens + other.num_tokens, self.nats + other.nats)


def score_text(
    runner: Runner,
    tokenizer: Tokenizer,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Scores a text, which the model reads as a document.

    Where documents begin with a token of their own (`add_bos_token`), so does every window. Otherwise nothing
    predicts the first token of the text, and it is not counted.

    Args:
        runner: used from its first page on; nothing else may run on it meanwhile.
        tokenizer: of the runner's model.
        text: special tokens in it are read as plain text.
        window: tokens that a prediction may look back on and count, together; the runner's longest context when None.
        stride: tokens between the beginnings of two windows; half a window when None.
        max_tokens: only the first so many tokens of the text.
        progress: called with tokens scored and tokens in all.

    Raises:
        ConfigError: the text has nothing to predict, or window and stride do not fit.
    """
    window = runner.max_context if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if not 2 <= window <= runner.max_context:
        raise ConfigError(f"window: {window} is not between 2 and the {runner.max_context} positions of the model")
    prefix = [tokenizer.bos_token_id] if tokenizer.add_bos_token and tokenizer.bos_token_id is not None else []
    token_ids = tokenizer.encode(text)[:max_tokens]
    first = 1 - len(prefix)  # of the tokens that are scored
    if len(token_ids) <= first:
        raise ConfigError(f"the text has {len(token_ids)} tokens, of which none can be predicted; give a longer one")
    if not 1 <= stride <= window - 1:
        raise ConfigError(f"stride: {stride} is not between 1 and {window - 1}, one less than the window")
    counted = token_ids[first:]
    num_bytes = sum(len(tokenizer.token_bytes(token_id)) for token_id in counted)
    if tokenizer.adds_space and first == 0:
        num_bytes -= 1  # the space that the vocabulary puts before every text
    max_rows = max(1, min(_MAX_STEP_TOKENS, _MAX_LOGITS_BYTES // (4 * tokenizer.vocab_size)))
    nats = 0.0
    for start, stop, scored in _windows(len(token_ids), first, window - len(prefix), stride):
        losses = _losses(runner, [*prefix, *token_ids[start:stop]], stop - scored, max_rows)
        nats += float(losses.sum())
        progress(stop - first, len(counted))
    return Score(num_bytes, len(counted), nats)


def can_score(tokenizer: Tokenizer, text: str) -> bool:
    """Whether a text has a token that something predicts."""
    return len(tokenizer.encode(text)) > (0 if tokenizer.add_bos_token and tokenizer.bos_token_id is not None else 1)


def _windows(num_tokens: int, first: int, size: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Start and end of each window, and the first token in it that is to be scored."""
    start, scored = 0, first
    while scored < num_tokens:
        stop = min(start + size, num_tokens)
        yield start, stop, scored
        start, scored = start + stride, stop


def _losses(runner: Runner, token_ids: Sequence[int], count: int, max_rows: int) -> Float[np.ndarray, " count"]:
    """Negative log-likelihood, nats, of each of the last `count` tokens given those before it."""
    pages = range(-(-len(token_ids) // runner.page_size))
    inputs, targets = token_ids[:-1], np.asarray(token_ids[1:])
    unscored = len(inputs) - count  # inputs whose prediction is not wanted
    edges = [*range(0, unscored, _MAX_STEP_TOKENS), *range(unscored, len(inputs), max_rows), len(inputs)]
    losses = []
    for start, stop in pairwise(edges):
        wanted = stop - start if start >= unscored else 0
        rows = runner.step([SequenceStep(inputs[start:stop], start, pages, wanted)])
        if wanted:
            losses.append(_negative_log_likelihood(rows, targets[start:stop]))
    return np.concatenate(losses)


def _negative_log_likelihood(
    logits: Float[np.ndarray, "rows vocab"], targets: np.ndarray
) -> Float[np.ndarray, " rows"]:
    """In float64: a sum over 100,000 words in float32 loses what 4-bit weights are to be judged by."""
    highest = logits.max(axis=1, keepdims=True)
    total = np.exp(logits - highest, dtype=np.float64).sum(axis=1)
    return np.log(total) - (logits[np.arange(len(targets)), targets] - highest[:, 0])
