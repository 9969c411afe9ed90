"""Bits per byte against the model's own log-likelihoods, computed in one pass."""

import math
from functools import cache

import pytest
import torch

from aquila.errors import ConfigError
from aquila.evaluate.perplexity import Score, score_text
from aquila.generate.torch_runner import TorchRunner
from aquila.model.transformer import Transformer
from aquila.tokenizer.tokenizer import Tokenizer
from parts import CORPUS, tiny_model, tiny_tokenizer

TEXT = CORPUS[:700]


@cache
def model() -> Transformer:
    return tiny_model(max_position_embeddings=1024)


def runner(max_context: int | None = None) -> TorchRunner:
    return TorchRunner(model(), kv_bytes=1 << 20, max_context=max_context)


def with_bos() -> Tokenizer:
    return Tokenizer(tiny_tokenizer().backend, bos_token_id=3, add_bos_token=True)


def losses(token_ids: list[int]) -> list[float]:
    """Nats of each token but the first, given all before it."""
    logits = model()(torch.tensor([token_ids]))[0].double()
    chosen = torch.log_softmax(logits[:-1], dim=-1).gather(1, torch.tensor(token_ids)[1:, None])
    return (-chosen[:, 0]).tolist()


def test_a_text_in_one_window_costs_what_one_pass_says():
    token_ids = tiny_tokenizer().encode(TEXT)
    score = score_text(runner(), tiny_tokenizer(), TEXT)
    expected = losses(token_ids)
    assert len(expected) > 256, "more than one step"
    assert score.num_tokens == len(expected)
    assert score.nats == pytest.approx(sum(expected), rel=1e-6)
    assert score.num_bytes == len(TEXT.encode()) - len(tiny_tokenizer().token_bytes(token_ids[0]))
    assert score.bits_per_byte == pytest.approx(sum(expected) / math.log(2) / score.num_bytes)
    assert score.perplexity == pytest.approx(math.exp(sum(expected) / len(expected)))


@pytest.mark.parametrize(("window", "stride"), [(32, 8), (33, 32), (64, 1), (20, 7)])
def test_every_token_is_scored_once_in_the_first_window_that_reaches_it(window: int, stride: int):
    text = TEXT[:250]
    token_ids = tiny_tokenizer().encode(text)
    expected, reached = 0.0, 1
    for start in range(0, len(token_ids), stride):
        stop = min(start + window, len(token_ids))
        expected += sum(losses(token_ids[start:stop])[reached - start - 1 :])
        reached = stop
        if stop == len(token_ids):
            break
    score = score_text(runner(), tiny_tokenizer(), text, window=window, stride=stride)
    assert score.num_tokens == len(token_ids) - 1
    assert score.nats == pytest.approx(expected, rel=1e-6)


def test_a_model_whose_documents_begin_with_a_token_predicts_the_first_one_too():
    token_ids = tiny_tokenizer().encode(TEXT)
    score = score_text(runner(), with_bos(), TEXT)
    assert score.num_bytes == len(TEXT.encode())
    assert score.num_tokens == len(token_ids)
    assert score.nats == pytest.approx(sum(losses([3, *token_ids])), rel=1e-6)


def test_every_window_begins_with_that_token():
    token_ids = tiny_tokenizer().encode(TEXT)[:30]
    score = score_text(runner(), with_bos(), TEXT, window=21, stride=10, max_tokens=30)
    expected = sum(losses([3, *token_ids[:20]])) + sum(losses([3, *token_ids[10:30]])[10:])
    assert score.nats == pytest.approx(expected, rel=1e-6)


def test_the_longest_context_of_the_runner_is_the_window():
    expected = score_text(runner(), tiny_tokenizer(), TEXT, window=48, stride=24)
    assert score_text(runner(48), tiny_tokenizer(), TEXT).nats == pytest.approx(expected.nats)


def test_special_tokens_in_a_text_are_text():
    score = score_text(runner(), tiny_tokenizer(), "x <|endoftext|> y")
    assert score.num_bytes == len("x <|endoftext|> y") - 1


def test_progress_ends_with_all_tokens():
    calls: list[tuple[int, int]] = []
    score = score_text(
        runner(), tiny_tokenizer(), TEXT, window=64, progress=lambda done, total: calls.append((done, total))
    )
    assert len(calls) > 2
    assert calls[-1] == (score.num_tokens, score.num_tokens)
    assert calls == sorted(calls)


def test_scores_of_several_texts_add_up():
    total = Score(10, 4, 2.0) + Score(30, 12, 8.0)
    assert total == Score(40, 16, 10.0)
    assert Score(1, 1, 1e6).perplexity == math.inf


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "the text has 0 tokens, of which none can be predicted"),
        ("a", {}, "the text has 1 tokens"),
        (TEXT, {"window": 1}, "window: 1 is not between 2 and the 1024 positions"),
        (TEXT, {"window": 4096}, "window: 4096 is not between 2"),
        (TEXT, {"window": 64, "stride": 64}, "stride: 64 is not between 1 and 63"),
        (TEXT, {"stride": 0}, "stride: 0 is not between 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(text: str, options: dict[str, int], message: str):
    with pytest.raises(ConfigError, match=message):
        score_text(runner(), tiny_tokenizer(), text, **options)
