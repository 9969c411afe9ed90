"""Grammars: what is drawn under one is of it, and drawing under one is drawing among what it allows."""

import json
import re

import numpy as np
import pytest

from aquila.errors import ConfigError, GenerationError
from aquila.generate.grammar import Grammar, Grammars
from aquila.generate.request import Request
from aquila.generate.sampling import SamplingParams
from parts import tiny_engine, tiny_tokenizer

PROMPT = tuple(tiny_tokenizer().encode("class Stack:"))


@pytest.fixture(scope="module")
def engine():
    return tiny_engine()


def draw(engine, grammar, **params):
    defaults = {"temperature": 1.2, "top_k": 0, "top_p": 1.0, "max_new_tokens": 100, "seed": 1}
    found = engine.generate([Request(PROMPT, SamplingParams(grammar=grammar, **{**defaults, **params}))])
    return found[0]


@pytest.mark.parametrize("seed", range(4))
def test_a_regular_expression_matches_what_comes(engine, seed):
    (completion,) = draw(engine, Grammar("regex", "[a-c]{3}-(x|第行)[0-9]+z"), seed=seed, temperature=2.0)
    assert completion.finish_reason == "stop"
    assert re.fullmatch("[a-c]{3}-(x|第行)[0-9]+z", completion.text)


def test_a_choice_is_one_of_them(engine):
    options = ["yes", 'a "quoted"\n\\line', "不"]
    found = {c.text for c in draw(engine, Grammar("choice", json.dumps(options)), n=20, temperature=5.0)}
    assert found <= set(options)
    assert len(found) > 1


def test_a_lark_grammar(engine):
    lark = 'start: "<" word ("," word)* ">"\nword: /[xy]{2}/'
    assert re.fullmatch("<[xy]{2}(,[xy]{2})*>", draw(engine, Grammar("lark", lark), temperature=2.0)[0].text)


def test_a_schema_gives_what_the_schema_says(engine):
    schema = {
        "type": "object",
        "properties": {
            "ok": {"type": "boolean"},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        },
        "required": ["ok", "tags"],
        "additionalProperties": False,
    }
    for completion in draw(engine, Grammar("json_schema", json.dumps(schema)), n=4):
        value = json.loads(completion.text)
        assert set(value) == {"ok", "tags"}
        assert len(value["tags"]) <= 3


def test_the_end_of_a_grammar_is_the_end(engine):
    (completion,) = draw(engine, Grammar("choice", '["abc"]'), ignore_eos=True)
    assert completion.text == "abc"
    assert completion.finish_reason == "stop"


def test_a_grammar_only_forbids():
    """Two routes: a mask by hand on the logits, and the grammar's, draw the same."""
    from aquila.generate.sampling import Sampler

    tokenizer = tiny_tokenizer()
    grammars = Grammars(tokenizer, 330, frozenset(tokenizer.eos_token_ids))
    params = SamplingParams(temperature=0.7, top_k=3, top_p=0.9)
    logits = np.random.default_rng(0).normal(0, 3, 330).astype(np.float32)
    matcher = grammars.matcher(Grammar("regex", "[0-9]+"))
    allowed = matcher.allowed(330)
    by_hand = np.full(330, -1e9, np.float32)
    by_hand[allowed] = logits[allowed]
    for seed in range(30):
        fresh = Sampler(params, (), seed, 0, grammars.matcher(Grammar("regex", "[0-9]+")))
        assert fresh.sample(logits)[0] == Sampler(params, (), seed, 0).sample(by_hand)[0]


def test_every_end_token_may_end_it():
    tokenizer = tiny_tokenizer()
    ends = frozenset({*tokenizer.eos_token_ids, 3})
    matcher = Grammars(tokenizer, tokenizer.vocab_size, ends).matcher(Grammar("regex", "[0-9]*"))
    assert ends <= set(matcher.allowed(tokenizer.vocab_size).tolist())


def test_beside_others_it_is_the_same(engine):
    grammar = Grammar("regex", "[a-z]{20}")
    (alone,) = draw(engine, grammar)
    params = SamplingParams(temperature=1.2, top_k=0, top_p=1.0, max_new_tokens=100, seed=1, grammar=grammar)
    free = SamplingParams(temperature=1, max_new_tokens=30, seed=3)
    (together,), _ = engine.generate([Request(PROMPT, params), Request(PROMPT, free)])
    assert together.text == alone.text


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (Grammar("json_schema", '{"not": {}}'), 'the JSON schema cannot be used: Unimplemented keys: ["not"]'),
        (Grammar("json_schema", "{"), "the JSON schema cannot be used"),
        (Grammar("json_schema", '{"type": "object", "properties": {"a": false}, "required": ["a"]}'), "Unsatisfiable"),
        (Grammar("regex", "(?=x)"), "the regular expression cannot be used"),
        (Grammar("choice", "[]"), "the list of choices cannot be used: it is empty"),
        (Grammar("lark", "start: nope"), "the Lark grammar cannot be used"),
        (
            Grammar("json_schema", '{"type": "integer", "multipleOf": 999983}'),
            "multipleOf: 999983 has too many remaind",
        ),
        (Grammar("json_schema", '{"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}'), "together with the others"),
        (
            Grammar("lark", 'start: %json {"multipleO\\u0066": 999983.0}'),
            "multipleOf: 999983.0 has too many remainders",
        ),
        (Grammar("json_schema", '{"type": "number", "multipleOf": 1e-300}'), "has too many remainders to follow"),
        (Grammar("choice", json.dumps([str(n) for n in range(3000)])), "it has 3000 entries; 2000 at most"),
        (Grammar("regex", "a" * 300_000), "it has 300000 characters; 200000 at most can be followed"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_cannot_be_used_says_why(engine, grammar, message):
    with pytest.raises(ConfigError) as error:
        engine.submit(Request(PROMPT, SamplingParams(grammar=grammar)))
    assert message in str(error.value)
    assert not engine.busy


def test_what_prices_and_sizes_need_is_not_too_much(engine):
    """`multipleOf` is bounded, and schemas in use are far from the bound."""
    kinds = [{"type": "number", "multipleOf": step, "minimum": 0, "maximum": 9000} for step in (0.01, 0.25, 5, 60)]
    names = [f"field{number}" for number in range(50)]
    properties = {name: {"anyOf": [kinds[number % 4], {"type": "null"}]} for number, name in enumerate(names)}
    schema = {"type": "object", "properties": properties, "required": names, "additionalProperties": False}
    engine.grammars.check(Grammar("json_schema", json.dumps(schema)))
    (completion,) = draw(
        engine, Grammar("json_schema", '{"type": "integer", "multipleOf": 7, "minimum": 8, "maximum": 9000}')
    )
    assert int(completion.text) % 7 == 0


def test_a_model_without_an_end_has_no_grammars():
    with pytest.raises(GenerationError, match="no token that ends a text"):
        Grammars(tiny_tokenizer(), 320, frozenset()).check(Grammar("regex", "a"))
