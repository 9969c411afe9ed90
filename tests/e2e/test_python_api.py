"""Aquila from Python, as the README shows it."""

import codecs
from pathlib import Path

import pytest

import aquila
from aquila.errors import ConfigError
from aquila.generate import aquila_generate
from parts import tiny_tokenizer

pytestmark = pytest.mark.e2e

PROMPTS = ["def is_prime(n):", "class Stack:\n", "print(7, 'hello"]
GREEDY = aquila.SamplingParams(temperature=0.0, max_new_tokens=16)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> aquila.Model:
    return aquila.load(checkpoint)


def test_load_and_generate(model: aquila.Model):
    completions = model.generate(PROMPTS, GREEDY)
    assert [completion.prompt_token_ids for completion in completions] == tiny_tokenizer().encode_batch(PROMPTS)
    for completion in completions:
        data = b"".join(tiny_tokenizer().token_bytes(token_id) for token_id in completion.token_ids)
        whole = codecs.getincrementaldecoder("utf-8")("replace").decode(data)  # a character that was cut is left out
        assert completion.text == whole
        assert len(completion.token_ids) == 16


def test_aquila_generate_takes_one_prompt_or_many(model: aquila.Model):
    expected = [completion.text for completion in model.generate(PROMPTS, GREEDY)]
    assert aquila_generate(model.tokenizer, model, PROMPTS, max_gen_len=16, temperature=0.0) == expected
    assert aquila_generate(model.tokenizer, model, PROMPTS[0], max_gen_len=16, temperature=0.0) == expected[0]
    assert aquila_generate(None, model, PROMPTS[0], 16, 0.0) == expected[0]
    assert aquila_generate(None, model, [], 16) == []


def test_aquila_generate_takes_token_ids_in_place_of_texts(model: aquila.Model):
    expected = [completion.text for completion in model.generate(PROMPTS, GREEDY)]
    rows = tiny_tokenizer().encode_batch(PROMPTS)
    assert aquila_generate(None, model, ["", "", ""], 16, 0.0, prompts_tokens=rows) == expected
    assert aquila_generate(None, model, "", 16, 0.0, prompts_tokens=rows[0]) == expected[0]
    with pytest.raises(ConfigError, match="3 lists for 1 prompts"):
        aquila_generate(None, model, "", prompts_tokens=rows)


def test_aquila_generate_ends_at_the_context_when_200_tokens_do_not_fit(model: aquila.Model):
    """Its defaults ask for 200 new tokens, more than this model has positions; greedy makes it run into them."""
    assert model.max_context == 128
    text = aquila_generate(model.tokenizer, model, PROMPTS[0], temperature=0.0)
    assert text == model.generate(PROMPTS[0], aquila.SamplingParams(temperature=0.0))[0].text
    assert isinstance(aquila_generate(model.tokenizer, model, PROMPTS[0]), str)
