"""Encoding, decoding and special tokens."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.errors import ConfigError, TokenizerError
from aquila.tokenizer.samples import CHINESE, SAMPLES
from aquila.tokenizer.specials import AQUILA_SPECIALS, FIM_NAMES
from aquila.tokenizer.tokenizer import Tokenizer
from aquila.tokenizer.train import SPECIALS, train_tokenizer

TINY = train_tokenizer(SAMPLES.values(), vocab_size=400)


def test_published_vectors_are_exact(aquila_tokenizer, aquila_files):
    vectors = json.loads((aquila_files / "vectors.json").read_text(encoding="utf-8"))
    found = {name: aquila_tokenizer.encode(case["text"], allow_special=True) for name, case in vectors.items()}
    assert found == {name: case["ids"] for name, case in vectors.items()}


def test_aquila_special_ids(aquila_tokenizer):
    ids = [aquila_tokenizer.token_id(text) for text in ("<|endoftext|>", *AQUILA_SPECIALS)]
    assert ids == [0, *range(100_000, 100_008)]
    assert (aquila_tokenizer.bos_token_id, aquila_tokenizer.pad_token_id) == (100_006, 0)
    assert aquila_tokenizer.eos_token_ids == (100_007, 0)
    assert aquila_tokenizer.vocab_size == 100_008


def test_aquila_fim_names_alias_unused_ids(aquila_tokenizer):
    """The legacy vocabulary has four free places for five names; file_sep and repo_name share one."""
    text = "<|repo_name|>r<|file_sep|>f<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
    ids = aquila_tokenizer.encode(text, allow_special=True)
    assert [token_id for token_id in ids if token_id > 99_999] == [
        100_002,
        100_002,
        100_003,
        100_004,
        100_005,
    ]
    assert aquila_tokenizer.token_id("<|fim_middle|>") == aquila_tokenizer.fim.middle == 100_005
    assert set(aquila_tokenizer.encode(text)).isdisjoint(aquila_tokenizer.special_ids)


@pytest.mark.parametrize("text", ["a </s> b", "[CLS][MASK]", "x\n<|endoftext|>\ny", " <|fim_prefix|> ", "<|im_end|>"])
def test_special_texts_of_a_user_stay_text(aquila_tokenizer, tiny_tokenizer, text):
    """Neither matched, nor are the spaces around them taken away."""
    for tokenizer in (aquila_tokenizer, tiny_tokenizer):
        ids = tokenizer.encode(text)
        assert tokenizer.special_ids.isdisjoint(ids)
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode_batch([text]) == [ids]


def test_allowed_specials_are_single_tokens(tiny_tokenizer):
    ids = tiny_tokenizer.encode("".join(SPECIALS), allow_special=True)
    assert ids == list(range(len(SPECIALS)))
    assert tiny_tokenizer.encode_batch(["<|im_end|>"], allow_special=True) == [[SPECIALS.index("<|im_end|>")]]


def test_control_tokens_declared_as_ordinary_ones_stay_out_of_reach():
    """Qwen2 declares its fill-in-the-middle tokens without the special flag."""
    backend = train_tokenizer(["abc"], vocab_size=300, specials=["<|endoftext|>"]).backend
    backend.add_tokens([*FIM_NAMES.values(), "<tool_call>"])
    tokenizer = Tokenizer(backend)
    assert tokenizer.fim is not None
    assert len(tokenizer.encode("<|fim_prefix|>")) > 1
    assert tokenizer.encode("<tool_call>") == [tokenizer.token_id("<tool_call>")]
    assert tokenizer.decode(tokenizer.encode("<|fim_prefix|><tool_call>", allow_special=True)) == "<tool_call>"


@given(st.text())
def test_any_text_comes_back(text):
    ids = TINY.encode(text)
    assert TINY.decode(ids) == text
    assert b"".join(TINY.token_bytes(token_id) for token_id in ids) == text.encode()


@given(st.lists(st.integers(min_value=0, max_value=TINY.vocab_size - 1)))
def test_decode_equals_the_library(ids):
    """Our byte join against the library's decoder, on ids in any order."""
    assert TINY.decode(ids, skip_special=False) == TINY.backend.decode(ids, skip_special_tokens=False)
    assert TINY.decode(ids) == TINY.backend.decode(ids, skip_special_tokens=True)


def test_broken_bytes_become_replacement_characters(tiny_tokenizer):
    first = tiny_tokenizer.token_id("ä")  # 0xE4 in the byte alphabet: the first byte of many Chinese characters
    assert tiny_tokenizer.token_bytes(first) == b"\xe4"
    assert tiny_tokenizer.decode([first, *tiny_tokenizer.encode("a"), first]) == "\ufffda\ufffd"


def test_special_bytes_only_when_asked(tiny_tokenizer):
    token_id = tiny_tokenizer.token_id("<|im_end|>")
    assert tiny_tokenizer.token_bytes(token_id) == b""
    assert tiny_tokenizer.token_bytes(token_id, with_special=True) == b"<|im_end|>"
    assert tiny_tokenizer.decode([token_id], skip_special=False) == "<|im_end|>"


def test_ids_beyond_the_vocabulary_have_no_text(tiny_tokenizer):
    """Embeddings are often padded; a sampled padding row must not end a stream with an error."""
    assert tiny_tokenizer.decode([tiny_tokenizer.vocab_size + 5]) == ""
    with pytest.raises(TokenizerError, match="token id 400 is not in the vocabulary; its ids are 0 to 399"):
        tiny_tokenizer.token_text(400)
    with pytest.raises(TokenizerError, match="-1 is negative"):
        tiny_tokenizer.token_bytes(-1)


def test_half_a_surrogate_pair_is_refused_with_its_place(tiny_tokenizer):
    with pytest.raises(ConfigError, match=r"U\+D83D\) at character 2"):
        tiny_tokenizer.encode("ab\ud83d")


def test_threads_share_one_tokenizer(tiny_tokenizer):
    """User text and templates are encoded at the same time; neither sees the other's setting."""
    with ThreadPoolExecutor(8) as pool:
        plain = pool.map(lambda _: tiny_tokenizer.encode("<|im_end|>"), range(200))
        special = pool.map(lambda _: tiny_tokenizer.encode("<|im_end|>", allow_special=True), range(200))
        assert {tuple(ids) for ids in plain} == {tuple(tiny_tokenizer.encode("<|im_end|>"))}
        assert {tuple(ids) for ids in special} == {(SPECIALS.index("<|im_end|>"),)}


def test_long_chinese_without_spaces(aquila_tokenizer):
    """One pre-token of 90,000 characters: a quadratic merge loop would not come back."""
    text = "".join(character for character in CHINESE if character.isalpha()) * 400
    assert aquila_tokenizer.decode(aquila_tokenizer.encode(text)) == text


def test_truncation_and_padding_of_the_file_are_dropped():
    backend = train_tokenizer(["abc"], vocab_size=300).backend
    backend.enable_truncation(2)
    backend.enable_padding(length=8)
    assert len(Tokenizer(backend).encode("abcdef")) == 6


def test_ids_of_named_tokens_must_exist(tiny_tokenizer):
    with pytest.raises(TokenizerError, match="bos_token_id is 400, but the vocabulary has ids 0 to 399"):
        Tokenizer(tiny_tokenizer.backend, bos_token_id=400)
