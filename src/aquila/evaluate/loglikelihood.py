"""What a model thinks of given continuations: their log-likelihood, and whether greedy decoding would write them.

Many at once over the engine's own pages: a beginning that several share is computed once and found again, and
continuations that differ in their last token only (the letters of a multiple choice) take one computation together.
How texts become tokens is as lm-eval has it, so that figures can be laid beside its own
(EleutherAI/lm-evaluation-harness, lm_eval/api/model.py and lm_eval/models/huggingface.py).
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from jaxtyping import Float

from aquila.errors import ConfigError, GenerationError
from aquila.generate.engine import Engine
from aquila.generate.load import Model
from aquila.generate.runner import SequenceStep

_MAX_LOGITS_BYTES = 64 << 20  # of one step
_LOOK_AHEAD = 64  # waiting sequences that are tried for a place in a step

Pair = tuple[Sequence[int], Sequence[int]]  # tokens of a context, tokens of its continuation
Likelihood = tuple[float, bool]  # nats; whether every token is the likeliest one


@dataclass(eq=False)
class _Run:
    """A sequence to compute, and the continuations that are read off it.

    Attributes:
        token_ids: all but the last token of context and continuation.
        first: the first position whose prediction is wanted.
        targets: of each continuation its tokens.
        origins: of each continuation its place in what was asked.
        origin: key of the first page that was not there yet.
    """

    token_ids: tuple[int, ...]
    first: int
    targets: list[np.ndarray] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)
    greedy: list[bool] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    computed: int = 0
    registered: int = 0
    origin: tuple[int, tuple[int, ...]] | None = None

    def add(self, target: Sequence[int], origin: int) -> None:
        self.targets.append(np.asarray(target))
        self.origins.append(origin)
        self.sums.append(0.0)
        self.greedy.append(True)


class Scorer:
    """Scores continuations on an engine that nothing else runs on meanwhile."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._runner, self._pool = engine.runner, engine.pool
        self._max_rows = max(1, _MAX_LOGITS_BYTES // (4 * engine.tokenizer.vocab_size))

    def score(self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda count: None) -> list[Likelihood]:
        """The log-likelihood of each continuation. What does not fit the context is cut off at its beginning.

        Args:
            pairs: tokens of contexts and continuations; neither may be empty.
            progress: called with how many pairs are done.

        Raises:
            ConfigError: a context or a continuation without tokens.
            GenerationError: the engine is at work on something else.
        """
        if self._engine.busy:
            raise GenerationError("the engine has requests of its own; score when they are finished")
        runs: dict[tuple[tuple[int, ...], int], _Run] = {}
        for place, (context, continuation) in enumerate(pairs):
            inputs, target = self._fit(context, continuation)
            first = len(inputs) - len(target)
            runs.setdefault((inputs, first), _Run(inputs, first)).add(target, place)
        found: list[Likelihood] = [(0.0, True)] * len(pairs)
        waiting, running = deque(runs.values()), list[_Run]()
        try:
            while waiting or running:
                done = self._step(waiting, running)
                for run in done:
                    for place, total, greedy in zip(run.origins, run.sums, run.greedy, strict=True):
                        found[place] = total, greedy
                if done:
                    progress(sum(len(run.origins) for run in done))
        finally:
            for run in running:
                self._pool.release(run.pages)
        return found

    def _fit(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[tuple[int, ...], Sequence[int]]:
        """What is computed and what is predicted, cut as lm-eval cuts: the last `max_context` inputs stay."""
        if not context or not continuation:
            raise ConfigError("a context and a continuation need at least one token each; give a begin-of-text token")
        inputs = [*context, *continuation][:-1]
        if len(inputs) > self._engine.max_context:
            inputs = inputs[-self._engine.max_context :]
        return tuple(inputs), continuation[-len(inputs) :]

    def _step(self, waiting: deque[_Run], running: list[_Run]) -> list[_Run]:
        """Computes one step; gives the sequences that it finished, which are no longer running."""
        room, rows = self._engine.scheduler.max_batched_tokens, self._max_rows
        planned: list[tuple[_Run, int, int]] = []  # sequence, tokens, rows of logits
        for run in running:
            room, rows = self._plan(run, room, rows, planned)
        for run in list(islice(waiting, _LOOK_AHEAD)):
            if room <= 0 or rows <= 0 or len(running) >= self._engine.scheduler.max_sequences:
                break
            if self._admit(run, running):
                waiting.remove(run)
                running.append(run)
                room, rows = self._plan(run, room, rows, planned)
        steps = [
            SequenceStep(run.token_ids[run.computed : run.computed + count], run.computed, tuple(run.pages), wanted)
            for run, count, wanted in planned
        ]
        logits = self._runner.step(steps)
        start, done = 0, []
        for run, count, wanted in planned:
            _read(run, run.computed + count, logits[start : start + wanted])
            start += wanted
            run.computed += count
            full = run.computed // self._pool.page_size
            self._pool.register(run.pages, run.token_ids, run.registered, full)
            run.registered = max(full, run.registered)
            if run.computed == len(run.token_ids):
                running.remove(run)
                self._pool.release(run.pages)
                done.append(run)
        return done

    def _plan(self, run: _Run, room: int, rows: int, planned: list[tuple[_Run, int, int]]) -> tuple[int, int]:
        start = run.computed
        stop = min(len(run.token_ids), start + room, max(start, run.first) + rows)
        wanted = max(0, stop - max(start, run.first))
        if stop > start:
            planned.append((run, stop - start, wanted))
        return room - (stop - start), rows - wanted

    def _admit(self, run: _Run, running: Sequence[_Run]) -> bool:
        """Whether there are pages for it, and nobody is at work on a beginning that it could use."""
        size = self._pool.page_size
        pages = self._pool.match(run.token_ids[: run.first + 1])
        parent = pages[-1] if pages else -1
        origin = parent, tuple(run.token_ids[len(pages) * size : (len(pages) + 1) * size])
        missing = -(-len(run.token_ids) // size) - len(pages)
        taken = None if any(each.origin == origin for each in running) else self._pool.take(missing)
        if taken is None:
            self._pool.release(pages)
            return False
        run.pages, run.origin = [*pages, *taken], origin
        run.computed, run.registered = len(pages) * size, len(pages)
        return True


def _read(run: _Run, stop: int, logits: Float[np.ndarray, "rows vocab"]) -> None:
    """Adds what the predictions of positions up to `stop` say of each continuation."""
    if not len(logits):
        return
    highest = logits.max(axis=1)
    # in float64: a sum over 100,000 words in float32 loses what 4-bit weights are to be judged by
    totals = np.log(np.exp(logits - highest[:, None], dtype=np.float64).sum(axis=1))
    likeliest = logits.argmax(axis=1)
    rows = np.arange(len(logits))
    begin = stop - len(logits) - run.first
    for index, target in enumerate(run.targets):
        wanted = target[begin : begin + len(logits)]
        run.sums[index] += float((logits[rows, wanted] - highest - totals).sum())
        run.greedy[index] = run.greedy[index] and bool((likeliest == wanted).all())


def encode_pair(model: Model, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Tokens of a context and of what follows it: those of the whole, cut where the context alone ends.

    Spaces at the context's end belong to the continuation. An empty context is the token that documents begin with,
    or that they end with.
    """
    if not context:
        begin, ids = prefix_token_id(model), model.tokenizer.encode(continuation)
        return ([begin], ids) if ids[:1] != [begin] else (ids[:1], ids[1:])
    bare, continuation = split_spaces(context, continuation)
    whole, alone = model.prompt_ids(bare + continuation), model.prompt_ids(bare)
    return alone, whole[len(alone) :]


def split_spaces(context: str, continuation: str) -> tuple[str, str]:
    """Moves the spaces at a context's end to what follows it, where vocabularies have them."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def prefix_token_id(model: Model) -> int:
    """The token that stands for an empty context.

    Raises:
        ConfigError: the vocabulary has none.
    """
    tokenizer = model.tokenizer
    known = [tokenizer.bos_token_id, *tokenizer.eos_token_ids]
    found = next((token_id for token_id in known if token_id is not None), None)
    if found is None:
        raise ConfigError("this vocabulary has no token that begins or ends a text, so an empty context has no tokens")
    return found


def loglikelihood(
    model: Model, pairs: Sequence[tuple[str, str]], progress: Callable[[int], None] = lambda count: None
) -> list[Likelihood]:
    """`Scorer.score` of texts."""
    return Scorer(model.engine).score([encode_pair(model, *pair) for pair in pairs], progress)
