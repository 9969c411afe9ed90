"""The sampler against a plain reference, and its statistics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.errors import ConfigError, GenerationError
from aquila.generate.sampling import Sampler, SamplingParams, candidates, token_logprob


def reference(logits: np.ndarray, params: SamplingParams) -> dict[int, float]:
    """Probabilities by the book: sort everything, apply one rule after the other."""
    scaled = logits.astype(np.float64) / params.temperature
    order = sorted(range(len(scaled)), key=lambda i: (-scaled[i], i))
    if params.top_k:
        threshold = scaled[order[min(params.top_k, len(order)) - 1]]
        order = [i for i in order if scaled[i] >= threshold]
    weights = np.exp(scaled[order] - scaled[order[0]])
    probabilities = weights / weights.sum()
    kept, before = [], 0.0
    for i, p in zip(order, probabilities, strict=True):
        if before <= params.top_p or params.top_p == 1.0:
            kept.append((i, p))
        before += p
    kept = [(i, p) for i, p in kept if p >= params.min_p * kept[0][1]]
    total = sum(p for _, p in kept)
    return {i: p / total for i, p in kept}


@given(
    seed=st.integers(0, 1000),
    vocab=st.sampled_from([1, 2, 40, 3000]),
    top_k=st.sampled_from([0, 1, 7, 5000]),
    top_p=st.sampled_from([0.1, 0.6, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05]),
    temperature=st.sampled_from([0.3, 1.0, 4.0]),
)
def test_candidates_equal_the_reference(seed, vocab, top_k, top_p, min_p, temperature):
    logits = np.random.default_rng(seed).normal(0, 3, vocab).astype(np.float32).round(1)  # ties occur
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    ids, weights = candidates(logits, params)
    found = dict(zip(ids.tolist(), weights / weights.sum(), strict=True))
    expected = reference(logits, params)
    assert list(found) == list(expected)
    assert list(found.values()) == pytest.approx(list(expected.values()))


def test_draws_follow_the_distribution():
    """20,000 draws: every frequency within five standard errors of its probability."""
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], dtype=np.float32))
    sampler = Sampler(SamplingParams(temperature=1.0, top_k=0, top_p=1.0), [], seed=3, index=0)
    counts = np.bincount([sampler.sample(logits)[0] for _ in range(20_000)], minlength=4) / 20_000
    expected = np.exp(logits)
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected * (1 - expected) / 20_000))


def test_greedy_takes_the_lowest_id_among_equals():
    sampler = Sampler(SamplingParams(temperature=0.0), [], seed=0, index=0)
    assert sampler.sample(np.array([1.0, 5.0, 5.0], dtype=np.float32))[0] == 1


def test_penalties_change_the_choice_and_not_the_logits():
    logits = np.array([2.0, 1.9, -1.0], dtype=np.float32)
    kept = logits.copy()
    repetition = Sampler(SamplingParams(temperature=0.0, repetition_penalty=1.2), [0], seed=0, index=0)
    assert repetition.sample(logits)[0] == 1  # 2.0 / 1.2 < 1.9, seen in the prompt
    presence = Sampler(SamplingParams(temperature=0.0, presence_penalty=0.5), [0], seed=0, index=0)
    assert [presence.sample(logits)[0] for _ in range(2)] == [0, 1]  # prompts do not count, output does
    frequency = Sampler(SamplingParams(temperature=0.0, frequency_penalty=0.06), [0], seed=0, index=0)
    assert [frequency.sample(logits)[0] for _ in range(4)] == [0, 0, 1, 0]
    assert (logits == kept).all()


def test_token_logprob_is_log_softmax():
    logits = np.array([1.0, 3.0, 2.0, 3.0], dtype=np.float32)
    entry = token_logprob(logits, 2, 3)
    log_total = np.log(np.exp(logits).sum())
    assert entry.logprob == pytest.approx(2.0 - log_total)
    assert [i for i, _ in entry.top] == [1, 3, 2]


def test_among_equals_the_most_likely_tokens_are_the_lowest_ids():
    logits = np.zeros(5000, np.float32)
    logits[[7, 4000]] = 1.0
    assert [token_id for token_id, _ in token_logprob(logits, 0, 5).top] == [7, 4000, 0, 1, 2]


def test_a_nucleus_of_nearly_the_whole_vocabulary():
    """More tokens than are looked at first, in a flat distribution."""
    logits = np.random.default_rng(3).standard_normal(30_000).astype(np.float32) / 10
    ids, weights = candidates(logits, SamplingParams(temperature=1.0, top_k=0, top_p=0.9))
    shares = np.exp(logits.astype(np.float64))
    order = np.argsort(-shares, kind="stable")
    count = int(np.searchsorted(shares[order].cumsum(), 0.9 * shares.sum(), side="left")) + 1
    assert 1024 * 8 < count == len(ids)
    np.testing.assert_array_equal(ids, order[:count])
    np.testing.assert_allclose(weights / weights.sum(), shares[order][:count] / shares[order][:count].sum(), rtol=1e-9)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -0.1, "temperature: must be between 0.0 and 100.0, got -0.1"),
        ("temperature", float("nan"), "temperature: must be between"),
        ("top_p", 1.5, "top_p: must be between 0.0 and 1.0, got 1.5"),
        ("top_p", 0.0, "top_p: must be above 0"),
        ("top_k", -1, "top_k: must be between"),
        ("n", 0, "n: must be between 1 and 1024, got 0"),
        ("max_new_tokens", 0, "max_new_tokens: must be between"),
        ("seed", -1, "seed: must be 0 or more"),
        ("stop", ("",), "stop: an empty string"),
        ("logprobs", 101, "logprobs: must be between 0 and 100"),
    ],
)
def test_a_value_out_of_range_is_named(field, value, message):
    with pytest.raises(ConfigError, match=message):
        SamplingParams(**{field: value})


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_an_error_and_not_a_token(temperature, wrong):
    logits = np.zeros(50, dtype=np.float32)
    logits[7] = wrong
    with pytest.raises(GenerationError, match="its weights are damaged"):
        Sampler(SamplingParams(temperature=temperature), [], seed=0, index=0).sample(logits)
