"""Which tokens the next step computes: one for every running sequence, then pieces of prompts while the budget lasts,
then drafts where room is left.

Source: Yu et al. 2022 (Orca), section 3 (iteration-level batching); Agrawal et al. 2024, arXiv:2403.02310 (chunked
prefill mixed with decoding). When pages run out, the sequence that came last gives its pages back and starts over
later: its tokens are kept, so its result is the same. Drafts take nobody's place: they get what is left of the budget
and of the pages.
"""

from collections import deque
from dataclasses import dataclass, field

from aquila.generate.pages import PagePool
from aquila.generate.runner import SequenceStep

SCORED_CHUNK = 64  # tokens of a prompt in a step when all their logits are wanted: 26 MB for 100 k entries


@dataclass(eq=False)
class Sequence:
    """The scheduler's view of one completion in the making."""

    token_ids: list[int]  # prompt and output
    num_prompt: int
    num_computed: int = 0
    num_registered: int = 0  # full pages that other sequences may find
    num_cached: int = 0  # prompt tokens found in the pool at the first admission
    pages: list[int] = field(default_factory=list)
    admitted: bool = False
    drafts: list[int] = field(default_factory=list)  # guesses of the tokens that follow `token_ids`
    adapter: int = 0  # the runner's number of it
    num_unscored: int = 0  # the prompt's last so many tokens still want the logits that lead to them

    @property
    def num_pending(self) -> int:
        """Tokens whose keys and values are still to be computed: 1 while decoding."""
        return len(self.token_ids) - self.num_computed


@dataclass(frozen=True)
class Plan:
    """One step: what the runner computes, for whom, and how many tokens of each are no drafts."""

    sequences: tuple[Sequence, ...]
    steps: tuple[SequenceStep, ...]
    counts: tuple[int, ...]


class Scheduler:
    """First come, first served; a running sequence always gets its token before a new prompt gets in."""

    def __init__(self, pool: PagePool, *, max_batched_tokens: int, max_sequences: int):
        self.pool = pool
        self.max_batched_tokens = max_batched_tokens
        self.max_sequences = max_sequences
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of arrival
        self.num_preemptions = 0

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence that is finished or cancelled, wherever it is; its pages are free from now on."""
        if sequence in self.running:
            self.running.remove(sequence)
            self.pool.release(sequence.pages)
            sequence.pages = []
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def plan(self) -> Plan:
        """The next step; empty when there is nothing to do."""
        self._budget = self.max_batched_tokens
        self._planned: dict[int, tuple[Sequence, int]] = {}  # id -> (sequence, tokens to compute)
        for sequence in [s for s in self.running if s.num_pending == 1]:
            self._schedule(sequence, 1)
        for sequence in [s for s in self.running if s.num_pending > 1]:
            self._schedule(sequence, self._chunk(sequence))
        while self.waiting and self._budget > 0 and len(self.running) < self.max_sequences:
            if not self._admit(self.waiting[0]):
                break
        planned = [(s, n) for s, n in self._planned.values() if s.admitted]
        self._fit_drafts([s for s, n in planned if n == s.num_pending])
        return Plan(
            tuple(s for s, _ in planned), tuple(_sequence_step(s, n) for s, n in planned), tuple(n for _, n in planned)
        )

    def commit(self, plan: Plan) -> None:
        """Records that the step was computed. Full pages become findable by their tokens."""
        for sequence, count in zip(plan.sequences, plan.counts, strict=True):
            self._advance(sequence, count)

    def accept(self, sequence: Sequence, token_ids: list[int]) -> None:
        """Appends what a step gave to a running sequence: drafts that were right, already computed, and one token more.

        Pages that only wrong drafts needed are free again.
        """
        sequence.token_ids += token_ids
        sequence.drafts = []
        self._advance(sequence, len(token_ids) - 1)
        needed = self._pages_for(len(sequence.token_ids))
        self.pool.release(sequence.pages[needed:])
        del sequence.pages[needed:]

    def _advance(self, sequence: Sequence, count: int) -> None:
        sequence.num_computed += count
        full = sequence.num_computed // self.pool.page_size
        self.pool.register(sequence.pages, sequence.token_ids, sequence.num_registered, full, adapter=sequence.adapter)
        sequence.num_registered = max(full, sequence.num_registered)

    def _fit_drafts(self, sequences: list[Sequence]) -> None:
        """Cuts the drafts of sequences whose step reaches their end to what room is left, and takes the pages."""
        if not any(sequence.drafts for sequence in sequences):
            return
        owed = sum(max(self._pages_for(len(s.token_ids) + 1) - len(s.pages), 0) for s in self.running)
        spare = max(self.pool.num_free - owed, 0)  # so that nobody who runs lacks a page because of a draft
        for sequence in sequences:
            end = len(sequence.token_ids)
            room = (len(sequence.pages) + spare) * self.pool.page_size - end
            sequence.drafts = sequence.drafts[: min(self._budget, room)]
            missing = self._pages_for(end + len(sequence.drafts)) - len(sequence.pages)
            if missing > 0:
                taken = self.pool.take(missing)
                assert taken is not None, "spare pages are free"
                sequence.pages += taken
                spare -= missing
            self._budget -= len(sequence.drafts)

    def _schedule(self, sequence: Sequence, count: int) -> None:
        """Plans `count` tokens of a running sequence, making room by preemption when it must."""
        if not sequence.admitted or count <= 0 or self._budget < count:
            return
        missing = self._pages_for(sequence.num_computed + count) - len(sequence.pages)
        while missing > self.pool.num_free:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return
        if missing > 0:
            taken = self.pool.take(missing)
            assert taken is not None, "enough pages were free a line ago"
            sequence.pages += taken
        self._planned[id(sequence)] = (sequence, count)
        self._budget -= count

    def _admit(self, sequence: Sequence) -> bool:
        """Moves the first waiting sequence among the running ones when its whole length fits the free pages."""
        found = [] if sequence.num_unscored else self.pool.match(sequence.token_ids, sequence.adapter)
        needed = self._pages_for(len(sequence.token_ids)) - len(found)
        if needed > self.pool.num_free:
            self.pool.release(found)
            return False
        self.waiting.popleft()
        self.running.append(sequence)
        sequence.admitted = True
        sequence.pages = found
        sequence.num_computed = len(found) * self.pool.page_size
        sequence.num_registered = len(found)
        sequence.num_cached = max(sequence.num_cached, min(sequence.num_computed, sequence.num_prompt))
        self._schedule(sequence, self._chunk(sequence))
        return True

    def _chunk(self, sequence: Sequence) -> int:
        """Tokens of a prompt that a step takes: fewer where all their logits are wanted, which take memory."""
        limit = min(self._budget, SCORED_CHUNK) if sequence.num_unscored else self._budget
        return min(sequence.num_pending, limit)

    def _preempt(self, sequence: Sequence) -> None:
        """Takes the pages of a running sequence; it waits at the front and is computed again from its tokens."""
        planned = self._planned.pop(id(sequence), None)
        if planned is not None:
            self._budget += planned[1]
        self.running.remove(sequence)
        self.pool.release(sequence.pages)
        sequence.pages = []
        sequence.num_computed = sequence.num_registered = 0
        sequence.admitted = False
        self.waiting.appendleft(sequence)
        self.num_preemptions += 1

    def _pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.pool.page_size)


def _sequence_step(sequence: Sequence, count: int) -> SequenceStep:
    at_end = count == sequence.num_pending
    token_ids = sequence.token_ids[sequence.num_computed : sequence.num_computed + count]
    drafts = sequence.drafts if at_end else []
    return SequenceStep(
        token_ids=token_ids + drafts,
        start=sequence.num_computed,
        pages=tuple(sequence.pages),
        num_logits=len(drafts) + (count if sequence.num_unscored else int(at_end)),
        adapter=sequence.adapter,
    )
