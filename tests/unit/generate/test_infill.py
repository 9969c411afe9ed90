"""The prompt that asks for what belongs at a cursor."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import aquila
from aquila.errors import ConfigError, UnsupportedError
from aquila.generate.infill import (
    INFILL_KEY,
    ExtraFile,
    InfillFormat,
    infill_format,
    infill_orders,
    infill_prompt,
    infill_request,
)
from aquila.generate.sampling import SamplingParams
from aquila.tokenizer.specials import AQUILA_FIM, FIM_NAMES, find_fim
from aquila.tokenizer.tokenizer import Tokenizer
from aquila.tokenizer.train import train_tokenizer
from parts import CORPUS, tiny_checkpoint, tiny_tokenizer

BOTH = InfillFormat(("psm", "spm"), marks_files=False)
BEFORE, LINE, AFTER = "def is_prime(n):\n    if n < 2:\n", "        return", "\n    return True\n"


@dataclass(frozen=True)
class Facts:
    """What a prompt needs to know of a model, without weights."""

    tokenizer: Tokenizer
    max_context: int = 512
    infill: InfillFormat | None = BOTH
    name: str = "facts"


def shown(facts: Facts, **options: Any) -> str:
    extra = options.pop("extra", ())
    prompt = infill_prompt(facts, BEFORE, AFTER, extra, **options)
    return facts.tokenizer.decode(prompt.token_ids, skip_special=False)


def tokenizer_with(names: tuple[str, ...]) -> Tokenizer:
    return train_tokenizer([CORPUS], vocab_size=320, specials=("<|endoftext|>", *names))


def test_each_order_has_its_parts_in_their_places() -> None:
    facts = Facts(tiny_tokenizer(), infill=InfillFormat(("psm", "spm", "suffix_first"), marks_files=False))
    pre, suf, mid = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
    assert shown(facts, line=LINE) == f"{pre}{BEFORE}{LINE}{suf}{AFTER}{mid}"
    assert shown(facts, line=LINE, order="spm") == f"{pre}{suf}{AFTER}{mid}{BEFORE}{LINE}"
    assert shown(facts, line=LINE, order="suffix_first") == f"{suf}{AFTER}{pre}{BEFORE}{LINE}{mid}"


@pytest.mark.parametrize(
    "marks",
    [
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
        ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ],
)
def test_the_marks_are_those_of_the_vocabulary(marks: tuple[str, str, str]) -> None:
    tokenizer = tokenizer_with(marks)
    facts = Facts(tokenizer, infill=infill_format(tokenizer, {}))
    pre, suf, mid = marks
    assert shown(facts) == f"{pre}{BEFORE}{suf}{AFTER}{mid}"


def test_models_that_mark_each_part_put_the_suffix_first() -> None:
    tokenizer = tokenizer_with(("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"))
    facts = Facts(tokenizer, infill=infill_format(tokenizer, {}))
    assert shown(facts) == f"<|code_suffix|>{AFTER}<|code_prefix|>{BEFORE}<|code_middle|>"


def test_files_stand_before_the_prefix_as_the_model_knows_them() -> None:
    extra = [ExtraFile("a = 1\n", "a.py"), ExtraFile("b = 2\n", "b.py")]
    core = f"{BEFORE}<|fim_suffix|>{AFTER}<|fim_middle|>"
    known = Facts(tiny_tokenizer(), infill=InfillFormat(("psm",), marks_files=True))
    assert shown(known, extra=extra, filename="c.py") == (
        "<|repo_name|>repository\n<|file_sep|>a.py\na = 1\n<|file_sep|>b.py\nb = 2\n<|file_sep|>c.py\n<|fim_prefix|>"
        + core
    )
    assert shown(Facts(tiny_tokenizer()), extra=extra) == f"<|fim_prefix|>a = 1\n\n\nb = 2\n\n\n{core}"


def test_text_of_a_user_never_becomes_a_mark() -> None:
    facts = Facts(tiny_tokenizer())
    text = "x = '<|fim_middle|>'\n<|endoftext|>"
    prompt = infill_prompt(facts, text, text, [ExtraFile(text, text)], line=text)
    special = [token_id for token_id in prompt.token_ids if token_id in facts.tokenizer.special_ids]
    fim = facts.tokenizer.fim
    assert fim is not None
    assert special == [fim.prefix, fim.suffix, fim.middle]


def test_a_long_text_keeps_three_quarters_before_the_cursor_and_one_after_it() -> None:
    tokenizer = tiny_tokenizer()
    facts = Facts(tokenizer, max_context=400)
    long = "".join(f"x{i} = {i}\n" for i in range(2000))
    prompt = infill_prompt(facts, long, long, max_new_tokens=50)
    assert prompt.truncated
    assert len(prompt.token_ids) <= 400 - 50
    fim = tokenizer.fim
    assert fim is not None
    cut = prompt.token_ids.index(fim.suffix)
    before, after = prompt.token_ids[1:cut], prompt.token_ids[cut + 1 : prompt.token_ids.index(fim.middle)]
    assert long.endswith(tokenizer.decode(before))
    assert long.startswith(tokenizer.decode(after))
    assert 0.5 < len(before) / (len(before) + len(after)) <= 0.75
    alone = infill_prompt(facts, long, "", max_new_tokens=50)
    assert len(alone.token_ids) > len(before) + 4, "what the suffix leaves is for the prefix"


def test_typing_does_not_move_the_beginning_of_the_prompt() -> None:
    """Else nothing that was computed for the last key would be of use for this one."""
    facts = Facts(tiny_tokenizer(), max_context=400)
    long = "".join(f"x{i} = {i}\n" for i in range(2000))
    starts = {infill_prompt(facts, long + "y = 1"[:typed], long).token_ids[:100] for typed in range(6)}
    assert len(starts) == 1
    lines = [infill_prompt(facts, long, long, line="x = 1"[:typed], order="spm").token_ids for typed in (0, 1, 5)]
    assert lines[1][: len(lines[0])] == lines[0] == lines[2][: len(lines[0])]


def test_files_that_do_not_fit_are_left_out_whole_the_first_ones_first() -> None:
    facts = Facts(tiny_tokenizer(), max_context=400)
    extra = [ExtraFile(f"{letter} = 1\n" * 20) for letter in "abcd"]
    text = shown(facts, extra=extra, max_new_tokens=64)
    kept = [letter for letter in "abcd" if f"{letter} = 1\n" * 20 in text]
    assert kept
    assert kept == list("abcd")[-len(kept) :]
    assert len(kept) < 4
    assert infill_prompt(facts, "", "", extra, max_new_tokens=64).truncated
    assert not infill_prompt(facts, BEFORE, AFTER, extra[:1]).truncated


@pytest.mark.parametrize("context", [1, 2, 8, 20])
def test_a_prompt_is_never_longer_than_a_small_context(context: int) -> None:
    facts = Facts(tiny_tokenizer(), max_context=context)
    prompt = infill_prompt(facts, BEFORE * 9, AFTER * 9, [ExtraFile(BEFORE)], line=LINE)
    assert len(prompt.token_ids) <= max(3, context - 1)


def test_all_marks_end_the_middle() -> None:
    facts = Facts(tiny_tokenizer())
    request = infill_request(facts, BEFORE, AFTER, SamplingParams(stop_token_ids=(7,)))
    names = {facts.tokenizer.token_id(name) for name in FIM_NAMES.values()}
    assert set(request.params.stop_token_ids) == names | {7}


def test_a_vocabulary_with_marks_is_not_yet_a_model_that_fills_in() -> None:
    tokenizer = tiny_tokenizer()
    assert infill_format(tokenizer, {INFILL_KEY: False}) is None
    assert infill_format(tokenizer, {INFILL_KEY: infill_orders(0.4)}) == InfillFormat(("psm", "spm"), False)
    assert infill_format(tokenizer, {}) == InfillFormat(("psm", "spm"), marks_files=True)
    legacy = Tokenizer(tokenizer.backend)
    legacy.fim = AQUILA_FIM
    assert infill_format(legacy, {}) is None
    assert infill_format(legacy, {INFILL_KEY: ["psm"]}) == InfillFormat(("psm",), marks_files=False)
    assert infill_orders(0.0) == ["psm"]
    assert infill_orders(1.0) == ["spm"]
    assert infill_orders(0.5) == ["spm", "psm"]


def test_a_model_that_was_not_trained_for_it_says_what_to_do() -> None:
    facts = Facts(tiny_tokenizer(), infill=None)
    with pytest.raises(UnsupportedError, match=r"facts cannot fill in the middle: its training had none of it\. Leave"):
        infill_prompt(facts, "a", "b")
    bare = tokenizer_with(())
    assert find_fim(bare.backend.token_to_id) is None
    with pytest.raises(UnsupportedError, match=r"its vocabulary has no tokens for it.*fim_rate above 0"):
        infill_prompt(replace(facts, tokenizer=bare), "a", "b")
    with pytest.raises(ConfigError, match="knows psm and spm, not 'suffix_first'"):
        infill_prompt(Facts(tiny_tokenizer()), "a", "b", order="suffix_first")


def test_a_loaded_model_fills_in(tmp_path: Path) -> None:
    model = aquila.load(tiny_checkpoint(tmp_path / "tiny"))
    assert model.infill == InfillFormat(("psm", "spm"), marks_files=True)
    request = infill_request(model, BEFORE, AFTER, SamplingParams(max_new_tokens=8, temperature=0), line=LINE)
    [[completion]] = model.engine.generate([request])
    assert completion.finish_reason in ("stop", "length")
