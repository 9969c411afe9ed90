"""The one engine: requests in, deltas out. Continuous batching over a paged key-value cache; no torch here.

A request's life: `submit` queues its `n` sequences -> `step` plans tokens for all of them, has the runner compute,
samples, decodes and hands out deltas -> the last delta says why it ended. What a request gets depends on its prompt,
its parameters and its seed alone: not on the rest of the batch, on chunking, on preemption, on cached prefixes or on
drafts. Requests with different adapters run together and share no pages.

Drafts (`lookup.py`) are guesses computed in the same step as the token before them. The sampler then draws row by row
as it would draw step by step, and goes on for as long as it draws what was guessed; the first other token is kept and
the rows behind it are forgotten. A right guess saves a step; a wrong one changes nothing.

One thread at a time may use an engine; it holds no lock.
"""

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from aquila.checkpoint.adapter import Adapter
from aquila.config import suggest
from aquila.errors import AquilaError, ConfigError, GenerationError
from aquila.generate import scheduler
from aquila.generate.grammar import GrammarMatcher, Grammars
from aquila.generate.lookup import Drafter, row_worth
from aquila.generate.pages import PagePool
from aquila.generate.request import Completion, Delta, Request, assemble
from aquila.generate.runner import Runner, SequenceStep
from aquila.generate.sampling import Sampler, SamplingParams, TokenLogprob, token_logprob
from aquila.tokenizer.stream import StreamDecoder
from aquila.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)


@dataclass
class Stats:
    """Counts since the engine was made."""

    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    num_preemptions: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0  # drafts that came true: so many tokens took no step of their own


@dataclass(eq=False)
class Branch:
    """One completion of a request: its sequence, its sampler and its decoder."""

    job: "Job"
    index: int
    sequence: scheduler.Sequence
    sampler: Sampler
    decoder: StreamDecoder
    max_new_tokens: int
    drafter: Drafter | None = None  # from the first token on
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)  # until the first token takes them along


@dataclass(eq=False)
class Job:
    """A submitted request. Branches after the first start when the first has computed the prompt they share."""

    request_id: int
    request: Request
    seed: int
    branches: list[Branch] = field(default_factory=list)
    waiting: list[Branch] = field(default_factory=list)


class Engine:
    """Runs requests over a `Runner`. Any thread may ask: orders and steps come one after the other.

    Args:
        runner: computes steps.
        tokenizer: decodes output and knows the end tokens.
        end_token_ids: tokens that end a completion; the tokenizer's own when not given.
        max_batched_tokens: tokens a step computes at most; a longer prompt is computed in pieces.
        max_sequences: sequences that run at once at most.
        prefix_cache: reuse the pages of a beginning that was computed before.
        max_draft_tokens: tokens guessed for a sequence in a step at most, 0 for none; the runner's advice when not
            given. What comes out is the same.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        *,
        end_token_ids: Sequence[int] | None = None,
        max_batched_tokens: int = 512,
        max_sequences: int = 64,
        prefix_cache: bool = True,
        max_draft_tokens: int | None = None,
    ):
        self.runner = runner
        self.tokenizer = tokenizer
        self.end_token_ids = frozenset(tokenizer.eos_token_ids if end_token_ids is None else end_token_ids)
        self.pool = PagePool(runner.num_pages, runner.page_size, reuse=prefix_cache)
        self.scheduler = scheduler.Scheduler(
            self.pool, max_batched_tokens=max(max_batched_tokens, max_sequences), max_sequences=max_sequences
        )
        self.max_context = min(runner.max_context, runner.num_pages * runner.page_size)
        self.max_draft_tokens = runner.draft_tokens if max_draft_tokens is None else max_draft_tokens
        self.stats = Stats()
        self.grammars = Grammars(tokenizer, runner.vocab_size, self.end_token_ids)
        self.adapters: dict[str, int] = {}  # name -> the runner's number
        self._jobs: dict[int, Job] = {}
        self._branches: dict[int, Branch] = {}  # id(sequence) -> branch
        self._outbox: dict[int, deque[Delta]] = {}  # deltas of streams that another stream's step produced
        self._next_id = 0
        self._lock = threading.RLock()  # held for an order or a step: any thread may call

    @property
    def busy(self) -> bool:
        """Whether a step would compute something."""
        return bool(self._jobs)

    def load_adapter(self, name: str, adapter: Adapter) -> None:
        """Lets requests name an adapter. `ConfigError` when the name is taken."""
        if name in self.adapters:
            raise ConfigError(f"adapter {name!r}: the name is taken; give every adapter a name of its own")
        with self._lock:
            self.adapters[name] = self.runner.load_adapter(adapter)

    def submit(self, request: Request) -> int:
        """Queues a request and gives its id. `GenerationError` when it can never run."""
        prompt = list(request.prompt_ids)
        if not prompt:
            raise GenerationError("the prompt is empty; give at least one token (a text, or a begin-of-text token)")
        room = self.max_context - len(prompt)
        if room < 1:
            raise GenerationError(
                f"the prompt has {len(prompt)} tokens, the context holds {self.max_context} and one must be left for "
                "the answer; shorten the prompt"
            )
        if not 0 <= min(prompt) <= max(prompt) < self.runner.vocab_size:
            wrong = next(token_id for token_id in prompt if not 0 <= token_id < self.runner.vocab_size)
            raise GenerationError(
                f"the prompt has token id {wrong}; the ids of this model are 0 to {self.runner.vocab_size - 1}"
            )
        with self._lock:
            return self._submit(request, prompt, room)

    def _submit(self, request: Request, prompt: list[int], room: int) -> int:
        params = request.params
        adapter = self._adapter_number(request.adapter)
        job = Job(self._next_id, request, secrets.randbits(63) if params.seed is None else params.seed)
        self._next_id += 1
        for index in range(params.n):
            branch = Branch(
                job=job,
                index=index,
                sequence=scheduler.Sequence(list(prompt), len(prompt), adapter=adapter),
                sampler=Sampler(params, prompt, job.seed, index, self._matcher(params)),
                decoder=StreamDecoder(self.tokenizer, params.stop),
                max_new_tokens=min(params.max_new_tokens, room),
            )
            job.branches.append(branch)
        if params.prompt_logprobs is not None:
            job.branches[0].sequence.num_unscored = len(prompt) - 1
        job.waiting = job.branches[1:]
        self._jobs[job.request_id] = job
        self._start(job.branches[0])
        return job.request_id

    def step(self) -> list[Delta]:
        """Computes one step and gives what it added. Does nothing when there is nothing to do.

        What fails ends with the finish reason "error", for the sequences that it concerns.
        """
        with self._lock:
            return self._step()

    def _step(self) -> list[Delta]:
        self._draft()
        plan = self.scheduler.plan()
        if not plan.sequences:
            assert not self._jobs, "requests wait, and nothing can run: a sequence alone must fit the pool"
            return []
        try:
            logits = self.runner.step(plan.steps)
        except AquilaError as error:
            return [self._fail(self._branches[id(sequence)], error) for sequence in plan.sequences]
        self.scheduler.commit(plan)
        self.stats.num_steps += 1
        self.stats.num_preemptions = self.scheduler.num_preemptions
        deltas: list[Delta] = []
        row = 0
        for sequence, step, count in zip(plan.sequences, plan.steps, plan.counts, strict=True):
            branch, rows = self._branches[id(sequence)], logits[row : row + step.num_logits]
            row += step.num_logits
            if sequence.num_unscored:
                self._score(branch, rows[:count], step)
            if sequence.num_pending == 0:  # its next token is due: the last row leads to it, or its drafts follow that
                drafts = step.token_ids[count:]
                try:
                    deltas.append(self._advance(branch, rows[len(rows) - len(drafts) - 1 :], drafts))
                except AquilaError as error:
                    deltas.append(self._fail(branch, error))
        return deltas

    def cancel(self, request_id: int) -> list[Delta]:
        """Ends what is left of a request now; its pages are free. Gives the last deltas, none when it is over."""
        with self._lock:
            job = self._jobs.get(request_id)
            if job is None:
                return []
            return [self._finish(branch, "", (), "cancelled") for branch in list(job.branches)]

    def stream(self, request: Request) -> Generator[Delta]:
        """Deltas of one request as they come. Closing the iterator cancels the request. Several may be open."""
        request_id = self._submit_with_outbox(request)
        outbox = self._outbox[request_id]
        remaining = request.params.n
        try:
            while remaining:
                self._step_while(lambda: not outbox)
                delta = _sound(outbox.popleft())
                remaining -= delta.finish_reason is not None
                yield delta
        finally:
            self.cancel(request_id)
            del self._outbox[request_id]

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """Runs requests together; for each its `n` completions in order."""
        ids: list[int] = []
        try:
            for request in requests:
                ids.append(self._submit_with_outbox(request))
            self._step_while(lambda: any(request_id in self._jobs for request_id in ids))
            return [
                _collect(request, self._outbox[request_id]) for request, request_id in zip(requests, ids, strict=True)
            ]
        finally:
            for request_id in ids:
                self.cancel(request_id)
                del self._outbox[request_id]

    def _submit_with_outbox(self, request: Request) -> int:
        """`submit`, and a place for what steps that others ask for add to it, from the first step on."""
        with self._lock:
            request_id = self.submit(request)
            self._outbox[request_id] = deque()
            return request_id

    def _step_while(self, wanting: Callable[[], bool]) -> None:
        """Steps, and puts what they gave where it belongs, until nothing is wanted. Others have their turns between."""
        while True:
            with self._lock:
                if not wanting():
                    return
                for delta in self.step():
                    if delta.request_id in self._outbox:
                        self._outbox[delta.request_id].append(delta)

    def _adapter_number(self, name: str | None) -> int:
        if name is None:
            return 0
        if name not in self.adapters:
            raise GenerationError(
                f"adapter {name!r} is not loaded{suggest(name, self.adapters) or '; none is'}; name one that was "
                "loaded with the model, or none"
            )
        return self.adapters[name]

    def _start(self, branch: Branch) -> None:
        self._branches[id(branch.sequence)] = branch
        self.scheduler.add(branch.sequence)

    def _draft(self) -> None:
        """Guesses what follows for every sequence that decodes; the scheduler cuts it to the room there is."""
        if self.max_draft_tokens == 0:
            return
        running = [self._branches[id(sequence)] for sequence in self.scheduler.running]
        decoding = [(branch, branch.drafter) for branch in running if branch.drafter is not None]
        if not decoding:
            return
        worth = row_worth(len(decoding), self.runner.row_cost)
        for branch, drafter in decoding:
            produced = len(branch.sequence.token_ids) - branch.sequence.num_prompt
            limit = branch.max_new_tokens - produced - 1  # a step gives one token more than it has drafts
            branch.sequence.drafts = drafter.draft(limit, worth)

    def _matcher(self, params: SamplingParams) -> GrammarMatcher | None:
        return None if params.grammar is None else self.grammars.matcher(params.grammar)

    def _score(self, branch: Branch, logits: Float[np.ndarray, "rows vocab"], step: SequenceStep) -> None:
        """Log-probabilities of prompt tokens: row i leads to the token after `step.token_ids[i]`."""
        sequence, num_top = branch.sequence, branch.job.request.params.prompt_logprobs
        assert num_top is not None, "only such requests are scored"
        first_unscored = sequence.num_prompt - sequence.num_unscored
        for place, row in enumerate(logits, step.start + 1):
            if first_unscored <= place < sequence.num_prompt:
                branch.prompt_logprobs.append(token_logprob(row, sequence.token_ids[place], num_top))
        sequence.num_unscored = sequence.num_prompt - 1 - len(branch.prompt_logprobs)

    def _advance(self, branch: Branch, logits: Float[np.ndarray, "rows vocab"], drafts: Sequence[int]) -> Delta:
        """Samples the next tokens of a branch, for as long as its drafts come true, and says what they added."""
        sequence = branch.sequence
        if len(sequence.token_ids) == sequence.num_prompt:
            self._prompt_done(branch)
        room = branch.max_new_tokens - (len(sequence.token_ids) - sequence.num_prompt)
        token_ids: list[int] = []
        logprobs: list[TokenLogprob] = []
        text, reason = "", None
        for row, draft in zip(logits, (*drafts, None), strict=True):
            token_id, logprob = branch.sampler.sample(row)
            token_ids.append(token_id)
            if logprob is not None:
                logprobs.append(logprob)
            is_end = self._is_end(branch, token_id)
            text += "" if is_end else branch.decoder.push(token_id)
            if is_end or branch.decoder.stopped or branch.sampler.finished:
                reason = "stop"
            elif len(token_ids) >= room:
                reason = "length"
            if reason is not None or token_id != draft:
                break
        self.scheduler.accept(sequence, token_ids)
        if branch.drafter is not None:
            branch.drafter.observe(token_ids)
        self.stats.num_output_tokens += len(token_ids)
        self.stats.num_drafted_tokens += len(drafts)
        self.stats.num_accepted_tokens += len(token_ids) - 1
        if reason is not None:
            return self._finish(branch, text, tuple(token_ids), reason, tuple(logprobs))
        return self._delta(branch, text, tuple(token_ids), None, tuple(logprobs))

    def _is_end(self, branch: Branch, token_id: int) -> bool:
        params = branch.job.request.params
        return token_id in params.stop_token_ids or (token_id in self.end_token_ids and not params.ignore_eos)

    def _prompt_done(self, branch: Branch) -> None:
        """The first token of a branch is due: its prompt is in the pages now, and its siblings find it there."""
        self.stats.num_prompt_tokens += branch.sequence.num_prompt
        self.stats.num_cached_tokens += branch.sequence.num_cached
        if self.max_draft_tokens and branch.sampler.matcher is None:
            branch.drafter = Drafter(branch.sequence.token_ids, self.max_draft_tokens)
        while branch.job.waiting:
            self._start(branch.job.waiting.pop(0))

    def _finish(
        self,
        branch: Branch,
        text: str,
        token_ids: tuple[int, ...],
        reason: str,
        logprobs: tuple[TokenLogprob, ...] = (),
        error: str | None = None,
    ) -> Delta:
        job = branch.job
        self.scheduler.remove(branch.sequence)
        self._branches.pop(id(branch.sequence), None)
        if branch in job.waiting:
            job.waiting.remove(branch)
        job.branches.remove(branch)
        if not job.branches:
            del self._jobs[job.request_id]
        text += branch.decoder.flush(cut=reason != "stop")
        return self._delta(branch, text, token_ids, reason, logprobs, error)

    def _fail(self, branch: Branch, error: AquilaError) -> Delta:
        """Ends a branch because of an error. Its siblings that wait for its prompt start by themselves."""
        siblings = branch.job.waiting
        delta = self._finish(branch, "", (), "error", error=str(error))
        while siblings:
            self._start(siblings.pop(0))
        return delta

    def _delta(
        self,
        branch: Branch,
        text: str,
        token_ids: tuple[int, ...],
        reason: str | None,
        logprobs: tuple[TokenLogprob, ...],
        error: str | None = None,
    ) -> Delta:
        prompt_logprobs, branch.prompt_logprobs = tuple(branch.prompt_logprobs), []
        return Delta(
            request_id=branch.job.request_id,
            index=branch.index,
            text=text,
            token_ids=token_ids,
            finish_reason=reason,
            logprobs=logprobs,
            seed=branch.job.seed,
            num_cached_tokens=branch.sequence.num_cached,
            prompt_logprobs=prompt_logprobs,
            error=error,
        )


def _sound(delta: Delta) -> Delta:
    """The delta; `GenerationError` when it says that its computation failed."""
    if delta.error is not None:
        raise GenerationError(delta.error)
    return delta


def _collect(request: Request, deltas: deque[Delta]) -> list[Completion]:
    per_index: list[list[Delta]] = [[] for _ in range(request.params.n)]
    for delta in deltas:
        per_index[delta.index].append(_sound(delta))
    return [assemble(request, entry) for entry in per_index]
