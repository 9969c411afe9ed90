"""What a text may be: a JSON schema, any JSON object, a regular expression, one of some choices, or a Lark grammar.

    Grammar (a value, in the request) -> Grammars (one a model, compiles and keeps) -> GrammarMatcher (one a completion)

llguidance computes which tokens a grammar allows next (https://github.com/guidance-ai/llguidance; Earley parser over
derivatives of regular expressions). It is imported when the first grammar comes: it belongs to the extra `serve`.

A grammar comes from a stranger, and some take hours. llguidance bounds its own work ("fuel"), but for `multipleOf`,
whose automaton has a state for each remainder, and for the length of what it reads; both are bounded here.
"""

import json
import math
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Int

from aquila.errors import ConfigError, GenerationError
from aquila.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

MAX_KEPT = 64  # compiled grammars
MAX_CHARACTERS = 200_000  # a regular expression of so many is compiled in 0.05 s, and its first mask takes 0.5 s
MAX_CHOICES = 2000  # llguidance follows no more at once
MAX_REMAINDERS = 20_000  # 0.15 s and 7 MB; 100 thousand take 0.7 s, a million 15 s
# One line, as json.dumps writes it: with free white space a small model may write blanks for ever.
JSON_LAYOUT: "JsonCompileOptions" = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY_OBJECT = '{"type": "object"}'


@dataclass(frozen=True)
class Grammar:
    """A description of the texts that a completion may be.

    Attributes:
        kind: how to read `source`.
        source: a JSON schema as JSON, nothing for "json_object", a regular expression (Rust's syntax), a JSON list of
            strings for "choice", or a grammar in llguidance's dialect of Lark.
    """

    kind: Literal["json_schema", "json_object", "regex", "choice", "lark"]
    source: str = ""


class Grammars:
    """Compiles grammars for one vocabulary. Any thread may use it.

    Args:
        tokenizer: of the model.
        vocab_size: rows of its logits, at least the tokenizer's entries.
        end_token_ids: tokens that may end a text where the grammar may end.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_token_ids: frozenset[int]):
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_token_ids = end_token_ids
        self._lock = threading.Lock()  # of what is kept; nobody compiles while holding it, the engine may be waiting
        self._tokenizer_lock = threading.Lock()
        self._ready: LLTokenizer | None = None
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()  # never advanced: copied for each completion

    def check(self, grammar: Grammar) -> None:
        """Compiles a grammar, to be kept. `ConfigError` in llguidance's words when it cannot be used."""
        self._compile(grammar)

    def matcher(self, grammar: Grammar) -> "GrammarMatcher":
        """The grammar at its start. See `check`."""
        return GrammarMatcher(self._compile(grammar).deep_copy(), self._end_token_ids)

    def _compile(self, grammar: Grammar) -> "LLMatcher":
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
                return self._compiled[grammar]
        made = self._make(grammar)
        with self._lock:
            self._compiled[grammar] = made
            if len(self._compiled) > MAX_KEPT:
                self._compiled.popitem(last=False)
        return made

    def _make(self, grammar: Grammar) -> "LLMatcher":
        try:
            from llguidance import LLMatcher  # noqa: PLC0415  an extra, and only where a grammar is asked for
        except ImportError:
            raise GenerationError(
                "grammars need llguidance, which is not installed; run `pip install 'aquila-lm[serve]'`"
            ) from None
        if not self._end_token_ids:
            raise GenerationError("the model has no token that ends a text, so a grammar could not end one")
        try:
            _check_size(grammar)
            compiled = _source(grammar)
        except ValueError as error:
            raise ConfigError(f"the {_NAMES[grammar.kind]} cannot be used: {error}") from None
        matcher = LLMatcher(self._vocabulary(), compiled, log_level=0)
        first = matcher.deep_copy()
        if not first.is_error():
            first.compute_bitmask()  # what cannot be followed from the start shows now, to its caller alone
        if first.is_error():
            raise ConfigError(f"the {_NAMES[grammar.kind]} cannot be used: {_first_line(first.get_error())}")
        return matcher

    def _vocabulary(self) -> "LLTokenizer":
        """The tokenizer as llguidance has it; half a second for 100 k entries, once."""
        from llguidance import LLTokenizer  # noqa: PLC0415  see `_make`

        with self._tokenizer_lock:
            if self._ready is None:
                self._ready = LLTokenizer(
                    self._tokenizer.backend.to_str(), n_vocab=self._vocab_size, eos_token=sorted(self._end_token_ids)
                )
            return self._ready


class GrammarMatcher:
    """Where one completion is in its grammar."""

    def __init__(self, matcher: "LLMatcher", end_token_ids: frozenset[int]):
        self._matcher = matcher
        self._end_token_ids = end_token_ids

    @property
    def finished(self) -> bool:
        """The text is whole: nothing may follow it."""
        return self._matcher.is_stopped()

    def allowed(self, vocab_size: int) -> Int[np.ndarray, " k"]:
        """Ids that may come next, rising. `GenerationError` when the grammar has become too much to follow."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        ids = np.flatnonzero(np.unpackbits(bits, count=vocab_size, bitorder="little"))
        if not len(ids):
            raise GenerationError(f"the grammar allows no token here: {_first_line(self._matcher.get_error())}")
        return ids

    def accept(self, token_id: int) -> None:
        """Goes on by a token that was allowed."""
        self._matcher.consume_token(token_id)


_MULTIPLE = re.compile(r'"multipleOf"\s*:\s*(-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?)')
_COMBINED = re.compile(r'"(?:allOf|anyOf|oneOf|then|else|\$ref)"')
_NAMES = {
    "json_schema": "JSON schema",
    "json_object": "JSON object",
    "regex": "regular expression",
    "choice": "list of choices",
    "lark": "Lark grammar",
}


def _check_size(grammar: Grammar) -> None:
    """`ValueError` for a grammar that would take seconds to compile, and what to write instead."""
    if len(grammar.source) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(grammar.source)} characters; {MAX_CHARACTERS} at most can be followed")
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), grammar.source)
    divisors = [Decimal(found[1]) for found in _MULTIPLE.finditer(text)] if "multipleOf" in text else []
    if divisors and _num_remainders(divisors, len(_COMBINED.findall(text))) > MAX_REMAINDERS:
        raise ValueError(
            f"multipleOf: {max(divisors)} has too many remainders to follow, by itself or together with the others "
            f"({MAX_REMAINDERS} at most); leave it out and check the number afterwards, or write a pattern"
        )


def _num_remainders(divisors: list[Decimal], num_combined: int) -> int:
    """States that numbers have at most: those of each divisor, and of all together wherever schemas are combined."""
    if any(not 1e-9 < abs(each) < 1e9 for each in divisors):
        return MAX_REMAINDERS + 1
    whole = [_scaled(each, max(0, -_exponent(each))) for each in divisors]
    scale = max(0, *(-_exponent(each) for each in divisors))
    together = math.lcm(*(_scaled(each, scale) for each in divisors)) if len(set(divisors)) > 1 and num_combined else 0
    return max(sum(whole), together, together * num_combined // 20)


def _exponent(number: Decimal) -> int:
    return int(number.as_tuple().exponent)


def _scaled(number: Decimal, power: int) -> int:
    return int(abs(number).scaleb(power))


def _source(grammar: Grammar) -> str:
    """The grammar in llguidance's own notation. `ValueError` when it has none."""
    from llguidance import LLMatcher, grammar_from  # noqa: PLC0415  see `_make`

    match grammar.kind:
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(grammar.source, overrides=JSON_LAYOUT)
        case "json_object":
            return LLMatcher.grammar_from_json_schema(ANY_OBJECT, overrides=JSON_LAYOUT)
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.source)
        case "choice":
            options = json.loads(grammar.source)
            if not options:
                raise ValueError("it is empty")
            if len(options) > MAX_CHOICES:
                raise ValueError(f"it has {len(options)} entries; {MAX_CHOICES} at most can be followed")
            return LLMatcher.grammar_from_lark("start: " + " | ".join(map(_lark_string, options)))
    return grammar_from("lark", grammar.source)


def _lark_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _first_line(message: str | None) -> str:
    return (message or "no reason is given").strip().splitlines()[0]
