"""From logits to the next token: penalties, temperature, top-k, top-p, min-p, one draw. numpy only.

Order: repetition, presence and frequency penalties -> logit bias -> what the grammar allows -> temperature -> top_k ->
top_p -> min_p -> draw. Temperature 0 takes the largest logit, the lowest id among equals. Each sequence draws from its
own generator, so what it gets never depends on its neighbours in a batch. Shapes: vocab; k = candidates that are left,
sorted by falling probability.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from aquila.errors import ConfigError, GenerationError
from aquila.generate.grammar import Grammar, GrammarMatcher

TOP_P_CANDIDATES = 1024  # top_p without top_k first looks at so many tokens before it sorts the whole vocabulary


@dataclass(frozen=True)
class SamplingParams:
    """How a completion is drawn. The defaults are those of `aquila_generate`.

    Attributes:
        temperature: divides the logits; 0 is greedy.
        top_k: keep the k most likely tokens (and those equal to the k-th); 0 keeps all.
        top_p: then keep tokens until their probability passes top_p.
        min_p: then drop tokens less likely than min_p times the most likely one.
        repetition_penalty: divides positive and multiplies negative logits of every token seen in prompt or output
            (Keskar et al. 2019, arXiv:1909.05858, section 4.1).
        presence_penalty: subtracted once from tokens of the output.
        frequency_penalty: subtracted from tokens of the output for each time they occurred.
        max_new_tokens: at most so many; clamped to what the context has room for.
        seed: makes the draw repeatable; None takes a fresh one.
        stop: texts that end the completion; they are cut off.
        stop_token_ids: tokens that end it, besides the model's own.
        ignore_eos: go on past the model's own end tokens.
        n: completions for the prompt.
        logprobs: report the log-probability of each token and of so many most likely ones; None reports nothing.
        prompt_logprobs: the same for the tokens of the prompt, which is then computed whole, without a cache.
        logit_bias: (token id, what is added to its logit), after the penalties.
        grammar: what the text may be; every token is drawn among those that it allows.
    """

    temperature: float = 0.8
    top_k: int = 30
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_new_tokens: int = 200
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        ranges = [
            ("temperature", 0.0, 100.0),
            ("top_k", 0, 1 << 31),
            ("top_p", 0.0, 1.0),
            ("min_p", 0.0, 1.0),
            ("repetition_penalty", 0.01, 100.0),
            ("presence_penalty", -100.0, 100.0),
            ("frequency_penalty", -100.0, 100.0),
            ("max_new_tokens", 1, 1 << 31),
            ("n", 1, 1024),
        ]
        for name, low, high in ranges:
            value = getattr(self, name)
            if not low <= value <= high:  # NaN is not, either
                raise ConfigError(f"{name}: must be between {low} and {high}, got {value}")
        if self.top_p == 0.0:
            raise ConfigError("top_p: must be above 0, got 0.0; use temperature 0 for greedy decoding")
        if self.seed is not None and self.seed < 0:
            raise ConfigError(f"seed: must be 0 or more, got {self.seed}")
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 100:
                raise ConfigError(f"{name}: must be between 0 and 100, got {value}")
        for token_id, bias in self.logit_bias:
            if token_id < 0 or not -100.0 <= bias <= 100.0:
                raise ConfigError(f"logit_bias: token ids from 0, biases from -100 to 100, got {token_id}: {bias}")
        if any(not text for text in self.stop):
            raise ConfigError("stop: an empty string would end every completion at once; leave it out")

    @property
    def penalised(self) -> bool:
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return penalties != (1.0, 0.0, 0.0) or bool(self.logit_bias)


@dataclass(frozen=True)
class TokenLogprob:
    """Log-probability of a produced token under the model's own distribution (before temperature and penalties)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # (token id, logprob) of the most likely tokens, falling


class Sampler:
    """Draws the tokens of one sequence: its parameters, its generator, what it has seen, and where its grammar is."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        seed: int,
        index: int,
        matcher: GrammarMatcher | None = None,
    ):
        self.params = params
        self.matcher = matcher
        self.generator = np.random.Generator(np.random.PCG64([seed, index]))
        self.seen = set(prompt_ids) if params.repetition_penalty != 1.0 else set()
        self.produced: Counter[int] = Counter()

    @property
    def finished(self) -> bool:
        """Nothing may follow: the grammar has come to its end."""
        return self.matcher is not None and self.matcher.finished

    def sample(self, logits: Float[np.ndarray, " vocab"]) -> tuple[int, TokenLogprob | None]:
        """The next token, and its log-probability when the parameters ask for it. `logits` is left as it was."""
        peak = float(logits.max())  # NaN where any of them is
        if not math.isfinite(peak):
            raise GenerationError(
                f"the model computes {peak} where a score should be: its weights are damaged (`aquila verify` tells), "
                "or too large for this dtype (try fp32)"
            )
        scores = self._penalise(logits) if self.params.penalised else logits
        if self.matcher is None:
            token_id = self._choose(scores)
        else:
            allowed = self.matcher.allowed(len(scores))
            token_id = int(allowed[self._choose(scores[allowed])])
            self.matcher.accept(token_id)
        if self.params.penalised:
            self.produced[token_id] += 1
        if self.params.logprobs is None:
            return token_id, None
        return token_id, token_logprob(logits, token_id, self.params.logprobs)

    def _penalise(self, logits: Float[np.ndarray, " vocab"]) -> Float[np.ndarray, " vocab"]:
        scores = logits.copy()
        seen = np.fromiter(self.seen.union(self.produced), dtype=np.int64)
        if self.params.repetition_penalty != 1.0 and seen.size:
            picked, penalty = scores[seen], self.params.repetition_penalty
            scores[seen] = np.where(picked > 0, picked / penalty, picked * penalty)
        if self.produced:
            ids = np.fromiter(self.produced.keys(), dtype=np.int64)
            counts = np.fromiter(self.produced.values(), dtype=np.float32)
            scores[ids] -= self.params.presence_penalty + self.params.frequency_penalty * counts
        for token_id, bias in self.params.logit_bias:
            if token_id < len(scores):
                scores[token_id] += bias
        return scores

    def _choose(self, scores: Float[np.ndarray, " vocab"]) -> int:
        return int(scores.argmax()) if self.params.temperature == 0.0 else self._draw(scores)

    def _draw(self, scores: Float[np.ndarray, " vocab"]) -> int:
        ids, probabilities = candidates(scores, self.params)
        cumulative = probabilities.cumsum()
        place = int(np.searchsorted(cumulative, self.generator.random() * cumulative[-1], side="right"))
        return int(ids[min(place, len(ids) - 1)])


def candidates(
    scores: Float[np.ndarray, " vocab"], params: SamplingParams
) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Tokens that may be drawn, most likely first (lowest id among equals), and weights proportional to p."""
    total = None
    if 0 < params.top_k < len(scores):
        ids = _largest(scores, params.top_k)
    elif params.top_p < 1.0:
        ids, total = _leading(scores, params)
    else:
        ids = np.arange(len(scores))
    scaled = scores[ids].astype(np.float64) / params.temperature
    order = np.argsort(-scaled, kind="stable")
    ids, scaled = ids[order], scaled[order]
    weights = np.exp(scaled - scaled[0])
    if params.top_p < 1.0:
        before = weights.cumsum() - weights  # mass in front of each token
        keep = before <= params.top_p * (weights.sum() if total is None else total)
        ids, weights = ids[keep], weights[keep]
    if params.min_p > 0.0:
        keep = weights >= params.min_p
        ids, weights = ids[keep], weights[keep]
    return ids, weights


def _largest(scores: Float[np.ndarray, " vocab"], count: int) -> Int[np.ndarray, " k"]:
    """Ids of the `count` largest scores and of those equal to the last of them, rising. On the scores as they are: to
    widen a vocabulary costs more than to search it."""
    place = len(scores) - count
    return np.flatnonzero(scores >= np.partition(scores, place)[place])


def _leading(scores: Float[np.ndarray, " vocab"], params: SamplingParams) -> tuple[Int[np.ndarray, " k"], float]:
    """A set that surely holds the top-p nucleus (not yet sorted), and the mass of the whole vocabulary."""
    scaled = scores.astype(np.float64) / params.temperature
    weights = np.exp(scaled - scaled.max())
    total = float(weights.sum())
    count = TOP_P_CANDIDATES
    while count < len(scores):
        ids = _largest(scores, count)
        if weights[ids].sum() > params.top_p * total:
            return ids, total
        count *= 8
    return np.arange(len(scores)), total


def token_logprob(logits: Float[np.ndarray, " vocab"], token_id: int, num_top: int) -> TokenLogprob:
    """Log-softmax of `logits` at `token_id` and at the `num_top` most likely tokens."""
    wide = logits.astype(np.float64)
    log_total = wide.max() + math.log(np.exp(wide - wide.max()).sum())
    top: list[tuple[int, float]] = []
    if num_top:
        ids = _largest(logits, min(num_top, len(logits)))
        ids = ids[np.argsort(-wide[ids], kind="stable")][:num_top]
        top = [(int(i), float(wide[i] - log_total)) for i in ids]
    return TokenLogprob(token_id, float(wide[token_id] - log_total), tuple(top))
