"""Scores of a prompt's own tokens: those of drawing them one by one, in pieces or at once, preempted or not."""

import pytest

from aquila.errors import ConfigError, GenerationError
from aquila.generate.request import Request
from aquila.generate.sampling import SamplingParams
from parts import tiny_engine, tiny_tokenizer

PROMPT = tuple(tiny_tokenizer().encode("def push(self, item):\n    print(1, 'hello world')\n" * 2))


def scores(engine, prompt=PROMPT, **params):
    params = SamplingParams(temperature=0, max_new_tokens=2, prompt_logprobs=2, **params)
    return engine.generate([Request(prompt, params)])[0]


def test_each_is_the_score_of_that_token_after_those_before_it():
    engine = tiny_engine()
    (completion,) = scores(engine)
    assert [entry.token_id for entry in completion.prompt_logprobs] == list(PROMPT[1:])
    for place in (1, 7, len(PROMPT) - 1):
        params = SamplingParams(temperature=0, max_new_tokens=1, logprobs=100)
        (alone,) = engine.generate([Request(PROMPT[:place], params)])[0]
        entry = completion.prompt_logprobs[place - 1]
        assert dict(alone.logprobs[0].top).get(PROMPT[place], entry.logprob) == pytest.approx(entry.logprob, abs=1e-4)
        assert entry.top[0][1] == pytest.approx(alone.logprobs[0].top[0][1], abs=1e-4)


def test_pieces_and_a_warm_cache_change_nothing():
    (whole,) = scores(tiny_engine())
    engine = tiny_engine(max_batched_tokens=8, max_sequences=4)
    for _ in range(2):
        (completion,) = scores(engine)
        found = [entry.logprob for entry in completion.prompt_logprobs]
        assert found == pytest.approx([entry.logprob for entry in whole.prompt_logprobs], abs=1e-4)
        assert completion.num_cached_tokens == 0
        assert completion.token_ids == whole.token_ids


def test_a_preempted_prompt_is_scored_once():
    """The pool has room for one of the two at a time."""
    needed = -(-(len(PROMPT) + 40) // 16)
    engine = tiny_engine(num_pages=needed + 1)
    params = SamplingParams(temperature=0, max_new_tokens=38, prompt_logprobs=0, ignore_eos=True)
    results = engine.generate([Request(PROMPT, params), Request(PROMPT[::-1], params)])
    for prompt, (completion,) in zip((PROMPT, PROMPT[::-1]), results, strict=True):
        assert [entry.token_id for entry in completion.prompt_logprobs] == list(prompt[1:])
    assert engine.stats.num_preemptions or engine.pool.num_free == engine.pool.num_pages


def test_a_prompt_of_one_token_has_none():
    (completion,) = scores(tiny_engine(), PROMPT[:1])
    assert completion.prompt_logprobs is None


def test_only_the_first_of_several_brings_them():
    found = scores(tiny_engine(), n=3)
    assert [completion.prompt_logprobs is not None for completion in found] == [True, False, False]


def test_ids_beyond_the_vocabulary_are_refused():
    with pytest.raises(GenerationError, match="token id 999; the ids of this model are 0 to 319"):
        tiny_engine().submit(Request((1, 999)))
    with pytest.raises(ConfigError, match="prompt_logprobs: must be between 0 and 100, got 101"):
        SamplingParams(prompt_logprobs=101)
