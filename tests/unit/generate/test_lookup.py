"""Guessing changes how many steps a text takes, and nothing of the text."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float

import aquila
from aquila.checkpoint.adapter import Adapter
from aquila.generate.engine import Engine
from aquila.generate.lookup import MAX_MATCH, Drafter, NgramIndex, row_worth
from aquila.generate.pages import PagePool
from aquila.generate.request import Completion, Request
from aquila.generate.runner import SequenceStep
from aquila.generate.sampling import SamplingParams
from aquila.generate.scheduler import Scheduler
from aquila.generate.scheduler import Sequence as ScheduledSequence
from parts import tiny_checkpoint, tiny_engine, tiny_model, tiny_tokenizer

VOCAB = tiny_tokenizer().vocab_size
WORDS = range(40, 52)  # so few that every pair of them comes again
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=40, seed=0, ignore_eos=True, logprobs=2)
DRAWN = SamplingParams(temperature=0.9, top_k=30, max_new_tokens=40, seed=5, ignore_eos=True, logprobs=0)


class CopyingRunner:
    """A language model that is small and exact: it likes to go on as it did after the same two of its words before.

    What it keeps in its pages are the tokens, and the scores depend on all of those it reads from there, to the last
    bit. So a stale token, a wrong page or a wrong position changes every score after it.
    """

    page_size = 4
    vocab_size = VOCAB
    draft_tokens = 4
    row_cost = 0.15

    def __init__(self, *, num_pages: int = 200, max_context: int = 200, fondness: float = 4.0):
        self.num_pages = num_pages
        self.max_context = max_context
        self.fondness = fondness  # 0: what it said before tells nothing
        self.slots = np.full(num_pages * self.page_size, -1)
        self.most_tokens = 0  # of a step
        self.last_end = 0

    def load_adapter(self, adapter: Adapter) -> int:
        raise NotImplementedError("it has no matrices")

    def step(self, batch: Sequence[SequenceStep]) -> Float[np.ndarray, "rows vocab"]:
        rows = []
        self.most_tokens = max(self.most_tokens, sum(len(item.token_ids) for item in batch))
        for item in batch:
            end = item.start + len(item.token_ids)
            self.last_end = max(self.last_end, end)
            slots = (np.array(item.pages)[:, None] * self.page_size + np.arange(self.page_size)).ravel()[:end]
            self.slots[slots[item.start :]] = item.token_ids
            context = self.slots[slots]
            rows += [self._scores(context[: end - back]) for back in range(item.num_logits)][::-1]
        return np.array(rows, dtype=np.float32).reshape(len(rows), VOCAB)

    def _scores(self, context: np.ndarray) -> np.ndarray:
        scores = np.random.default_rng(context).normal(0, 1.5, VOCAB)
        scores[WORDS] += 20.0
        pairs = np.flatnonzero((context[:-2] == context[-2:-1]) & (context[1:-1] == context[-1:]))
        if len(pairs):
            scores[context[pairs[-1] + 2]] += self.fondness
        return scores


def copying_engine(*, drafts: int = 4, fondness: float = 4.0, num_pages: int = 200, **options) -> Engine:
    runner = CopyingRunner(fondness=fondness, num_pages=num_pages)
    return Engine(runner, tiny_tokenizer(), max_draft_tokens=drafts, **options)


def repetitive(seed: int, length: int = 60) -> tuple[int, ...]:
    """A phrase over and over, with a slip now and then."""
    rng = random.Random(seed)
    phrase = rng.choices(WORDS, k=9)
    return tuple(rng.choice(phrase) if rng.random() < 0.1 else phrase[i % 9] for i in range(length))


def mixed_requests(seed: int) -> list[Request]:
    """Prompts of mixed lengths, some with a common beginning, and every way to draw."""
    rng = random.Random(seed)
    common = repetitive(seed, 50)
    prompts = [repetitive(seed + i, rng.choice([1, 3, 4, 5, 17, 60, 130])) for i in range(5)]
    prompts += [common + repetitive(seed + 10 + i, length) for i, length in enumerate((1, 8, 30))]
    ways = [
        GREEDY,
        DRAWN,
        replace(DRAWN, n=3, max_new_tokens=25),
        replace(GREEDY, repetition_penalty=1.1, max_new_tokens=80),
        replace(DRAWN, presence_penalty=0.3, frequency_penalty=0.1, top_p=0.9, top_k=0),
        replace(GREEDY, ignore_eos=False, max_new_tokens=1),
    ]
    return [Request(prompt, replace(ways[i % len(ways)], seed=seed + i)) for i, prompt in enumerate(prompts)]


def assert_same_text(found: Completion, expected: Completion) -> None:
    """Everything but how many prompt tokens were cached, which neighbours decide."""
    assert replace(found, num_cached_tokens=0) == replace(expected, num_cached_tokens=0)


@given(st.lists(st.integers(0, 3), max_size=60))
def test_a_match_is_the_longest_and_of_those_the_last(token_ids):
    """The index against a search of the whole text."""
    index = NgramIndex()
    for end, token_id in enumerate(token_ids, start=1):
        index.extend([token_id])
        text, expected = token_ids[:end], (0, 0)
        for length in range(2, min(MAX_MATCH, end - 1) + 1):
            places = [p for p in range(length, end) if text[p - length : p] == text[-length:]]
            expected = (length, places[-1]) if places else expected
        assert index.match() == expected


def test_a_copy_goes_on_behind_the_end():
    """Of `a b a b` the guess is `a b a b a`: a period, not the two tokens that are left."""
    index = NgramIndex([7, 8, 7, 8])
    assert index.match() == (2, 2)
    assert index.copy(2, 5) == [7, 8, 7, 8, 7]


def test_guesses_get_longer_as_they_come_true_and_stop_when_they_do_not():
    drafter = Drafter([1, 2, 3, 1, 2], 4)
    first = drafter.draft(9, row_worth(1))
    assert first == [3, 1]
    for token_id in [3, 1, 2] * 5:
        drafter.draft(9, row_worth(1))
        drafter.observe([token_id])
    assert drafter.draft(9, row_worth(1)) == [3, 1, 2, 3]
    assert drafter.draft(2, row_worth(1)) == [3, 1]
    for new in range(100, 120):  # after every `1 2` comes something new
        drafter.draft(9, row_worth(1))
        drafter.observe([new, 1, 2])
    assert drafter.draft(9, row_worth(1)) == []


def test_a_guess_that_was_not_computed_still_teaches():
    """A sequence that stopped guessing takes it up again when its text begins to repeat."""
    drafter = Drafter(range(100), 4)
    drafter.rates = [0.0] * len(drafter.rates)
    lengths = []
    for token_id in [5, 6, 7, 8, 9] * 8:
        lengths.append(len(drafter.draft(9, row_worth(1))))
        drafter.observe([token_id])
    assert lengths[:5] == [0] * 5
    assert lengths[-1] == 4


def test_in_a_fuller_batch_a_guess_must_be_surer():
    worths = [row_worth(count) for count in (1, 2, 8, 64)]
    assert worths == sorted(worths)
    assert worths[0] < 0.2
    assert 0.9 < worths[-1] < 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"drafts": 1},
        {"drafts": 15},
        {"max_batched_tokens": 8, "max_sequences": 8},
        {"num_pages": 50},
        {"num_pages": 50, "max_batched_tokens": 12, "max_sequences": 12, "drafts": 9},
        {"num_pages": 50, "prefix_cache": False},
        {"fondness": 0.0},
    ],
    ids=["roomy", "one draft", "long drafts", "chunked", "preempted", "chunked and preempted", "uncached", "new text"],
)
def test_guessing_changes_nothing_of_what_comes_out(options, seed):
    """Tokens, text, log-probabilities, reasons: to the last bit, whatever is drawn, cut, shared or preempted."""
    requests = mixed_requests(seed)
    engine = copying_engine(**options)
    found = engine.generate(requests)
    plain = copying_engine(fondness=options.get("fondness", 4.0), drafts=0, prefix_cache=False)
    for group, request in zip(found, requests, strict=True):
        for completion, expected in zip(group, plain.generate([request])[0], strict=True):
            assert_same_text(completion, expected)
    assert engine.pool.num_free == engine.pool.num_pages


def test_the_mixes_above_do_guess_and_preempt_and_share():
    """Guards the test above: there are right and wrong guesses, and its pool is small enough."""
    engine = copying_engine(num_pages=50, drafts=9)
    engine.generate(mixed_requests(0))
    assert engine.stats.num_preemptions > 0
    assert 50 < engine.stats.num_accepted_tokens < engine.stats.num_drafted_tokens - 20
    roomy = copying_engine()
    roomy.generate(mixed_requests(0))
    assert roomy.stats.num_cached_tokens > 40


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "params", [GREEDY, replace(DRAWN, temperature=0.1), replace(DRAWN, temperature=0.2, n=3, repetition_penalty=1.05)]
)
def test_a_real_decoder_gives_the_same_text(params, seed):
    """Rows of one step against a step each, on torch: the same tokens, and log-probabilities but for rounding."""
    request = Request(repetitive(seed, 50), replace(params, seed=seed))
    model = tiny_model(seed, initializer_range=0.1)  # smaller weights: its text falls into loops
    guessing, plain = tiny_engine(model, max_draft_tokens=5), tiny_engine(model)
    for found, expected in zip(guessing.generate([request])[0], plain.generate([request])[0], strict=True):
        assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
        assert [e.logprob for e in found.logprobs] == pytest.approx([e.logprob for e in expected.logprobs], abs=1e-4)
    assert guessing.stats.num_accepted_tokens >= (10 if params is GREEDY else 0)
    assert guessing.stats.num_drafted_tokens > plain.stats.num_drafted_tokens == 0


def test_a_text_that_repeats_takes_fewer_steps():
    request = Request(repetitive(1), replace(GREEDY, max_new_tokens=90))
    engine, plain = copying_engine(fondness=20.0), copying_engine(fondness=20.0, drafts=0)
    assert engine.generate([request]) == plain.generate([request])
    assert plain.stats.num_steps == 90
    assert engine.stats.num_steps < 40
    assert engine.stats.num_accepted_tokens == 90 - engine.stats.num_steps


def test_a_text_that_does_not_repeat_is_hardly_guessed_at():
    """Though every pair of its words was there before, and so there is always a guess."""
    engine = copying_engine(fondness=0.0)
    engine.generate([Request(repetitive(seed), replace(DRAWN, max_new_tokens=130)) for seed in range(3)])
    assert engine.stats.num_output_tokens == 390
    assert engine.stats.num_drafted_tokens < 39  # what it takes to learn that they are wrong


def test_a_first_delta_is_one_token_and_later_ones_are_several():
    """Speeds are counted from the first delta on."""
    request = Request(repetitive(1), replace(GREEDY, n=2))
    counts = [len(delta.token_ids) for delta in copying_engine(fondness=20.0).stream(request)]
    assert counts[0] == 1
    assert max(counts) == 5
    assert sum(counts) == 80


def test_a_text_ends_inside_a_run_of_right_guesses():
    """By a stop string, an end token or the number of tokens; nothing of the rest of the run is in it."""
    prompt = repetitive(1)
    engine, plain = copying_engine(fondness=20.0), copying_engine(fondness=20.0, drafts=0)
    whole = plain.generate([Request(prompt, GREEDY)])[0][0]
    for length in range(30, 38):
        found = engine.generate([Request(prompt, replace(GREEDY, max_new_tokens=length))])[0][0]
        assert found.token_ids == whole.token_ids[:length]
    for place in range(20, 28):
        stop = tiny_tokenizer().decode(whole.token_ids[place : place + 2])
        for params in (
            replace(GREEDY, stop=(stop, "never there")),
            replace(GREEDY, stop_token_ids=(whole.token_ids[place],)),
        ):
            found = engine.generate([Request(prompt, params)])[0][0]
            assert_same_text(found, plain.generate([Request(prompt, params)])[0][0])
            assert found.finish_reason == "stop"
            assert len(found.logprobs) == len(found.token_ids)
    assert engine.pool.num_free == engine.pool.num_pages


def test_the_end_token_of_the_model_may_be_guessed():
    """It stands in the prompt, so that a guess holds it: the completion ends there all the same."""
    phrase = (40, 41, 42, 43, 44)
    engine = copying_engine(fondness=30.0, end_token_ids=[43])
    found = engine.generate([Request(phrase * 6 + phrase[:1], replace(GREEDY, ignore_eos=False))])[0][0]
    assert found.token_ids == [41, 42, 43]
    assert found.finish_reason == "stop"
    assert engine.stats.num_accepted_tokens > 0


def test_pages_of_wrong_guesses_are_not_found_by_others():
    """A second request goes on from the first one's whole text, accepted drafts and all, and finds the right keys."""
    engine, plain = copying_engine(fondness=3.0, drafts=9), copying_engine(fondness=3.0, drafts=0, prefix_cache=False)
    for seed in range(6):
        first = engine.generate([Request(repetitive(seed, 40), replace(DRAWN, seed=seed))])[0][0]
        prompt = (*first.prompt_token_ids, *first.token_ids, 40, 41)
        found = engine.generate([Request(prompt, GREEDY)])[0][0]
        assert found.num_cached_tokens == (len(first.prompt_token_ids) + len(first.token_ids) - 1) // 4 * 4
        assert_same_text(found, plain.generate([Request(prompt, GREEDY)])[0][0])
    assert engine.stats.num_drafted_tokens > engine.stats.num_accepted_tokens > 0


def two_decoding(first_length: int, second_length: int) -> tuple[Scheduler, ScheduledSequence, ScheduledSequence]:
    """Two sequences of so many tokens in 6 pages of 4 tokens, each with nine drafts."""
    plan = Scheduler(PagePool(6, 4), max_batched_tokens=20, max_sequences=2)
    first, second = (ScheduledSequence([1] * (length - 1), length - 1) for length in (first_length, second_length))
    plan.add(first)
    plan.add(second)
    plan.commit(plan.plan())
    for sequence in (first, second):
        plan.accept(sequence, [2])
        sequence.drafts = [7] * 9
    return plan, first, second


@pytest.mark.parametrize(
    ("lengths", "drafts"),
    [((6, 9), [6, 3]), ((6, 12), [2, 0]), ((8, 11), [0, 1])],
    ids=["the first takes the spare page", "the second owes it to its next token", "the first does"],
)
def test_guesses_get_the_pages_that_nobody_needs(lengths, drafts):
    plan, first, second = two_decoding(*lengths)
    found = plan.plan()
    assert [len(step.token_ids) - 1 for step in found.steps] == drafts
    assert [step.num_logits - 1 for step in found.steps] == drafts
    plan.commit(found)
    plan.accept(first, [0])
    plan.accept(second, [0])
    assert len(plan.plan().steps) == 2
    assert plan.num_preemptions == 0


def test_pages_and_places_of_wrong_guesses_come_back():
    plan, first, second = two_decoding(6, 9)
    plan.commit(plan.plan())
    assert plan.pool.num_free == 0
    plan.accept(first, [7, 7, 0])
    plan.accept(second, [0])
    assert (first.token_ids[6:], first.num_computed, len(first.pages)) == ([7, 7, 0], 8, 3)
    assert (second.num_computed, len(second.pages)) == (9, 3)
    assert first.drafts == second.drafts == []


def test_guesses_fit_the_budget_the_context_and_the_request():
    """A step never computes more tokens than it may, nor the keys of a token that nothing can follow."""
    runner = CopyingRunner(fondness=20.0)
    engine = Engine(runner, tiny_tokenizer(), max_draft_tokens=9, max_batched_tokens=10, max_sequences=4)
    requests = [Request(repetitive(seed, 170), replace(GREEDY, max_new_tokens=1000)) for seed in range(4)]
    for group in engine.generate(requests):
        assert len(group[0].token_ids) == 30
    assert engine.stats.num_accepted_tokens > 0
    assert runner.most_tokens == 10
    assert runner.last_end == engine.max_context - 1


def test_the_runner_advises_and_the_caller_decides(tmp_path):
    runner = CopyingRunner()
    assert Engine(runner, tiny_tokenizer()).max_draft_tokens == 4
    assert Engine(runner, tiny_tokenizer(), max_draft_tokens=0).max_draft_tokens == 0
    checkpoint = tiny_checkpoint(tmp_path / "tiny")
    found = [
        aquila.load(checkpoint, device="cpu", lookup=lookup).engine.max_draft_tokens for lookup in (None, False, True)
    ]
    assert found == [3, 0, 3]
