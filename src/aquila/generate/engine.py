"""The one engine: requests in, deltas out. Continuous batching over a paged key-value cache; no torch here.

A request's life: `submit` queues its `n` sequences -> `step` plans tokens for all of them, has the runner compute,
samples, decodes and hands out deltas -> the last delta says why it ended. What a request gets depends on its prompt,
its parameters and its seed alone: not on the rest of the batch, on chunking, on preemption or on cached prefixes.

One thread at a time may use an engine; it holds no lock.
"""

import logging
import secrets
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from aquila.errors import GenerationError
from aquila.generate import scheduler
from aquila.generate.pages import PagePool
from aquila.generate.request import Completion, Delta, Request, assemble
from aquila.generate.runner import Runner
from aquila.generate.sampling import Sampler, TokenLogprob
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


@dataclass(eq=False)
class Branch:
    """One completion of a request: its sequence, its sampler and its decoder."""

    job: "Job"
    index: int
    sequence: scheduler.Sequence
    sampler: Sampler
    decoder: StreamDecoder
    max_new_tokens: int


@dataclass(eq=False)
class Job:
    """A submitted request. Branches after the first start when the first has computed the prompt they share."""

    request_id: int
    request: Request
    seed: int
    branches: list[Branch] = field(default_factory=list)
    waiting: list[Branch] = field(default_factory=list)


class Engine:
    """Runs requests over a `Runner`.

    Args:
        runner: computes steps.
        tokenizer: decodes output and knows the end tokens.
        end_token_ids: tokens that end a completion; the tokenizer's own when not given.
        max_batched_tokens: tokens a step computes at most; a longer prompt is computed in pieces.
        max_sequences: sequences that run at once at most.
        prefix_cache: reuse the pages of a beginning that was computed before.
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
    ):
        self.runner = runner
        self.tokenizer = tokenizer
        self.end_token_ids = frozenset(tokenizer.eos_token_ids if end_token_ids is None else end_token_ids)
        self.pool = PagePool(runner.num_pages, runner.page_size, reuse=prefix_cache)
        self.scheduler = scheduler.Scheduler(
            self.pool, max_batched_tokens=max(max_batched_tokens, max_sequences), max_sequences=max_sequences
        )
        self.max_context = min(runner.max_context, runner.num_pages * runner.page_size)
        self.stats = Stats()
        self._jobs: dict[int, Job] = {}
        self._branches: dict[int, Branch] = {}  # id(sequence) -> branch
        self._outbox: dict[int, deque[Delta]] = {}  # deltas of streams that another stream's step produced
        self._next_id = 0

    @property
    def busy(self) -> bool:
        """Whether a step would compute something."""
        return bool(self._jobs)

    def submit(self, request: Request) -> int:
        """Queues a request and gives its id. `GenerationError` when it can never run."""
        prompt = list(request.prompt_ids)
        params = request.params
        if not prompt:
            raise GenerationError("the prompt is empty; give at least one token (a text, or a begin-of-text token)")
        room = self.max_context - len(prompt)
        if room < 1:
            raise GenerationError(
                f"the prompt has {len(prompt)} tokens, the context holds {self.max_context} and one must be left for "
                "the answer; shorten the prompt"
            )
        job = Job(self._next_id, request, secrets.randbits(63) if params.seed is None else params.seed)
        self._next_id += 1
        for index in range(params.n):
            branch = Branch(
                job=job,
                index=index,
                sequence=scheduler.Sequence(list(prompt), len(prompt)),
                sampler=Sampler(params, prompt, job.seed, index),
                decoder=StreamDecoder(self.tokenizer, params.stop),
                max_new_tokens=min(params.max_new_tokens, room),
            )
            job.branches.append(branch)
        job.waiting = job.branches[1:]
        self._jobs[job.request_id] = job
        self._start(job.branches[0])
        return job.request_id

    def step(self) -> list[Delta]:
        """Computes one step and gives what it added. Does nothing when there is nothing to do."""
        plan = self.scheduler.plan()
        if not plan.sequences:
            assert not self._jobs, "requests wait, and nothing can run: a sequence alone must fit the pool"
            return []
        logits = self.runner.step(plan.steps)
        self.scheduler.commit(plan)
        self.stats.num_steps += 1
        self.stats.num_preemptions = self.scheduler.num_preemptions
        deltas: list[Delta] = []
        row = 0
        for sequence, step in zip(plan.sequences, plan.steps, strict=True):
            if step.num_logits:
                deltas.append(self._advance(self._branches[id(sequence)], logits[row]))
                row += step.num_logits
        return deltas

    def cancel(self, request_id: int) -> list[Delta]:
        """Ends what is left of a request now; its pages are free. Gives the last deltas, none when it is over."""
        job = self._jobs.get(request_id)
        if job is None:
            return []
        return [self._finish(branch, "", (), "cancelled", ()) for branch in list(job.branches)]

    def stream(self, request: Request) -> Generator[Delta]:
        """Deltas of one request as they come. Closing the iterator cancels the request. Several may be open."""
        request_id = self.submit(request)
        self._outbox[request_id] = deque()
        remaining = request.params.n
        try:
            while remaining:
                while not self._outbox[request_id]:
                    self._route(self.step())
                delta = self._outbox[request_id].popleft()
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
                ids.append(self.submit(request))
                self._outbox[ids[-1]] = deque()
            while any(request_id in self._jobs for request_id in ids):
                self._route(self.step())
            return [
                _collect(request, self._outbox[request_id]) for request, request_id in zip(requests, ids, strict=True)
            ]
        finally:
            for request_id in ids:
                self.cancel(request_id)
                del self._outbox[request_id]

    def _route(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            if delta.request_id in self._outbox:
                self._outbox[delta.request_id].append(delta)

    def _start(self, branch: Branch) -> None:
        self._branches[id(branch.sequence)] = branch
        self.scheduler.add(branch.sequence)

    def _advance(self, branch: Branch, logits: np.ndarray) -> Delta:
        """Samples the next token of a branch and says what it added."""
        params = branch.job.request.params
        sequence = branch.sequence
        if len(sequence.token_ids) == sequence.num_prompt:
            self._prompt_done(branch)
        token_id, logprob = branch.sampler.sample(logits)
        sequence.token_ids.append(token_id)
        self.stats.num_output_tokens += 1
        logprobs = () if logprob is None else (logprob,)
        is_end = token_id in params.stop_token_ids or (token_id in self.end_token_ids and not params.ignore_eos)
        text = "" if is_end else branch.decoder.push(token_id)
        if is_end or branch.decoder.stopped:
            return self._finish(branch, text, (token_id,), "stop", logprobs)
        if len(sequence.token_ids) - sequence.num_prompt >= branch.max_new_tokens:
            return self._finish(branch, text, (token_id,), "length", logprobs)
        return self._delta(branch, text, (token_id,), None, logprobs)

    def _prompt_done(self, branch: Branch) -> None:
        """The first token of a branch is due: its prompt is in the pages now, and its siblings find it there."""
        self.stats.num_prompt_tokens += branch.sequence.num_prompt
        self.stats.num_cached_tokens += branch.sequence.num_cached
        while branch.job.waiting:
            self._start(branch.job.waiting.pop(0))

    def _finish(
        self,
        branch: Branch,
        text: str,
        token_ids: tuple[int, ...],
        reason: str,
        logprobs: tuple[TokenLogprob, ...],
    ) -> Delta:
        job = branch.job
        self.scheduler.remove(branch.sequence)
        self._branches.pop(id(branch.sequence), None)
        if branch in job.waiting:
            job.waiting.remove(branch)
        job.branches.remove(branch)
        if not job.branches:
            del self._jobs[job.request_id]
        return self._delta(branch, text + branch.decoder.flush(cut=reason != "stop"), token_ids, reason, logprobs)

    def _delta(
        self,
        branch: Branch,
        text: str,
        token_ids: tuple[int, ...],
        reason: str | None,
        logprobs: tuple[TokenLogprob, ...],
    ) -> Delta:
        return Delta(
            request_id=branch.job.request_id,
            index=branch.index,
            text=text,
            token_ids=token_ids,
            finish_reason=reason,
            logprobs=logprobs,
            seed=branch.job.seed,
            num_cached_tokens=branch.sequence.num_cached,
        )


def _collect(request: Request, deltas: deque[Delta]) -> list[Completion]:
    per_index: list[list[Delta]] = [[] for _ in range(request.params.n)]
    for delta in deltas:
        per_index[delta.index].append(delta)
    return [assemble(request, entry) for entry in per_index]
