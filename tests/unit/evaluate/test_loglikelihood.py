"""Log-likelihoods of continuations, against one pass of the model over each of them."""

import numpy as np
import pytest
import torch

from aquila.errors import ConfigError, GenerationError
from aquila.evaluate.loglikelihood import Pair, Scorer, encode_pair, loglikelihood, prefix_token_id
from aquila.generate.engine import Engine
from aquila.generate.load import Model
from aquila.generate.request import Request
from aquila.generate.torch_runner import TorchRunner
from aquila.tokenizer.tokenizer import Tokenizer
from parts import tiny_engine, tiny_model, tiny_tokenizer


def in_one_pass(pair: Pair) -> tuple[float, bool]:
    context, continuation = pair
    logits = tiny_model()(torch.tensor([[*context, *continuation][:-1]]))[0, len(context) - 1 :].double()
    chosen = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(continuation)[:, None])
    return float(chosen.sum()), logits.argmax(dim=-1).tolist() == list(continuation)


def some_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Contexts that share beginnings of several pages, continuations of one to five tokens."""
    generator = np.random.default_rng(seed)
    vocab = tiny_tokenizer().vocab_size
    shared = generator.integers(4, vocab, 40).tolist()
    pairs: list[Pair] = []
    for _ in range(count):
        own = generator.integers(4, vocab, generator.integers(1, 50)).tolist()
        context = [*shared[: generator.integers(0, 40)], *own]
        pairs += [(context, generator.integers(4, vocab, generator.integers(1, 6)).tolist()) for _ in range(3)]
    return pairs


@pytest.mark.parametrize("num_pages", [None, 9])
def test_scores_are_those_of_one_pass_each_with_many_at_once_and_few_pages(num_pages: int | None):
    pairs = some_pairs(12)
    engine = tiny_engine(num_pages=num_pages, max_batched_tokens=48, max_sequences=5)
    free = engine.pool.num_free
    found = Scorer(engine).score(pairs)
    for pair, (score, greedy) in zip(pairs, found, strict=True):
        expected, expected_greedy = in_one_pass(pair)
        assert score == pytest.approx(expected, rel=1e-5)
        assert greedy == expected_greedy
    assert engine.pool.num_free == free


def test_what_greedy_decoding_writes_is_greedy_and_one_changed_token_is_not():
    engine = tiny_engine()
    context = tiny_tokenizer().encode("print(7, 'hello")
    logits = tiny_model()(torch.tensor([context]))[0, -1]
    best, other = int(logits.argmax()), int(logits.argmin())
    (first, second) = Scorer(engine).score([(context, [best]), (context, [other])])
    assert (first[1], second[1]) == (True, False)
    assert first[0] > second[0]


class Counting:
    """A runner that counts what it computes."""

    def __init__(self, runner: TorchRunner) -> None:
        self.inner = runner
        self.num_tokens = 0

    def step(self, batch):
        self.num_tokens += sum(len(step.token_ids) for step in batch)
        return self.inner.step(batch)

    def __getattr__(self, name: str):
        return getattr(self.inner, name)


def test_a_shared_beginning_is_computed_once_and_answers_of_one_token_together():
    runner = Counting(TorchRunner(tiny_model(), kv_bytes=1 << 20))
    engine = Engine(runner, tiny_tokenizer())
    beginning = list(range(10, 10 + 4 * engine.pool.page_size))
    pairs: list[Pair] = [([*beginning, question], [letter]) for question in (60, 61, 62) for letter in (70, 71, 72, 73)]
    found = Scorer(engine).score(pairs)
    assert runner.num_tokens == len(beginning) + 3
    assert [score for score, _ in found] == pytest.approx([in_one_pass(pair)[0] for pair in pairs], rel=1e-5)


def test_a_context_that_does_not_fit_loses_its_beginning():
    engine = tiny_engine()
    long = some_pairs(1)[0][0][:1] * 5 + list(range(4, 4 + 140))
    (score, _) = Scorer(engine).score([(long, [9, 11])])[0]
    kept = [*long, 9][-engine.max_context :]
    assert score == pytest.approx(in_one_pass((kept[:-1], [9, 11]))[0], rel=1e-5)


def test_nothing_is_scored_beside_requests_or_without_tokens():
    engine = tiny_engine()
    with pytest.raises(ConfigError, match="need at least one token each"):
        Scorer(engine).score([([], [5])])
    with pytest.raises(ConfigError, match="need at least one token each"):
        Scorer(engine).score([([5], [])])
    engine.submit(Request((5, 6)))
    with pytest.raises(GenerationError, match="requests of its own"):
        Scorer(engine).score([([5], [6])])


def model_with(tokenizer: Tokenizer) -> Model:
    return Model("tiny", tiny_model().config, tokenizer, tiny_engine())


def test_spaces_at_the_end_of_a_context_belong_to_what_follows():
    model = model_with(tiny_tokenizer())
    context, continuation = encode_pair(model, "hello ", "world")
    assert tiny_tokenizer().decode(context) == "hello"
    assert tiny_tokenizer().decode(continuation) == " world"
    assert loglikelihood(model, [("hello ", "world"), ("hello", " world")])[0] == pytest.approx(
        loglikelihood(model, [("hello", " world")])[0]
    )


def test_an_empty_context_is_the_token_that_documents_begin_with():
    begins = Tokenizer(tiny_tokenizer().backend, bos_token_id=3, add_bos_token=True)
    assert encode_pair(model_with(begins), "", "print")[0] == [3]
    assert encode_pair(model_with(begins), "print", "(7)")[0][0] == 3
    ends = model_with(Tokenizer(tiny_tokenizer().backend))
    assert prefix_token_id(ends) == ends.tokenizer.eos_token_ids[0]
