"""The vocabulary inside GGUF files: there and back, and against tokenizers built the original way."""

import numpy as np
import pytest
from tokenizers import Regex, pre_tokenizers

from aquila.errors import TokenizerError
from aquila.tokenizer.byte_level import PATTERNS, pre_tokenizer, pre_tokenizer_name
from aquila.tokenizer.gguf_vocab import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, from_gguf, to_gguf
from aquila.tokenizer.load import load_tokenizer
from aquila.tokenizer.samples import SAMPLES

TEXTS = [*SAMPLES.values(), "1+1=2  ３４½\n\n\t\tx\r\n 😀👍🏽 I'll</s>", "", "   ", "你好，世界！ＡＢＣ"]


def same_everywhere(one, other):
    for text in TEXTS:
        assert one.encode(text) == other.encode(text)
        assert one.encode(text, allow_special=True) == other.encode(text, allow_special=True)
        assert other.decode(other.encode(text)) == text
    for name in (
        "vocab_size",
        "bos_token_id",
        "eos_token_ids",
        "pad_token_id",
        "fim",
        "special_ids",
        "add_bos_token",
    ):
        assert getattr(one, name) == getattr(other, name)


def test_round_trip(tiny_tokenizer):
    tiny_tokenizer.chat_template = "{{ messages }}"
    values = to_gguf(tiny_tokenizer)
    back = from_gguf(values)
    same_everywhere(tiny_tokenizer, back)
    assert back.chat_template == "{{ messages }}"
    assert to_gguf(back) == values
    tiny_tokenizer.chat_template = None


def test_round_trip_of_aquila(aquila_tokenizer):
    values = to_gguf(aquila_tokenizer)
    assert values["tokenizer.ggml.pre"] == "gpt-2"
    assert values["tokenizer.ggml.fim_pre_token_id"] == 100_003
    assert [token_id for token_id, kind in enumerate(values["tokenizer.ggml.token_type"]) if kind != NORMAL] == [
        0,
        *range(100_000, 100_008),
    ]
    same_everywhere(aquila_tokenizer, from_gguf(values))


def test_a_padded_embedding_gets_unused_tokens(tiny_tokenizer):
    values = to_gguf(tiny_tokenizer, vocab_size=404)
    assert values["tokenizer.ggml.tokens"][400:] == ["[PAD400]", "[PAD401]", "[PAD402]", "[PAD403]"]
    assert values["tokenizer.ggml.token_type"][400:] == [UNUSED] * 4
    back = from_gguf(values)
    assert (back.vocab_size, back.decode([400, 403])) == (404, "")
    assert len(back.encode("[PAD400]", allow_special=True)) > 1
    with pytest.raises(TokenizerError, match="399 embedding rows for a vocabulary of 400"):
        to_gguf(tiny_tokenizer, vocab_size=399)


def test_numpy_values_are_read(tiny_tokenizer):
    values = to_gguf(tiny_tokenizer)
    values["tokenizer.ggml.token_type"] = np.array(values["tokenizer.ggml.token_type"], dtype=np.int32)
    values["tokenizer.ggml.eos_token_id"] = np.uint32(0)
    assert from_gguf(values).eos_token_ids == tiny_tokenizer.eos_token_ids


def test_vocabulary_read_from_gguf_can_be_saved(tiny_tokenizer, tmp_path):
    from_gguf(to_gguf(tiny_tokenizer)).save(tmp_path)
    same_everywhere(tiny_tokenizer, load_tokenizer(tmp_path))


def test_smollm_cuts_as_its_own_tokenizer_json_does():
    original = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    for text in TEXTS:
        assert pre_tokenizer("smollm").pre_tokenize_str(text) == original.pre_tokenize_str(text)


def test_qwen2_cuts_as_its_own_tokenizer_json_does():
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    original = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    for text in TEXTS:
        assert pre_tokenizer("qwen2").pre_tokenize_str(text) == original.pre_tokenize_str(text)


@pytest.mark.parametrize("name", PATTERNS)
def test_every_way_of_cutting_loses_nothing_and_is_told_apart(tiny_tokenizer, name):
    values = to_gguf(tiny_tokenizer) | {"tokenizer.ggml.pre": name}
    tokenizer = from_gguf(values)
    assert [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS] == TEXTS
    assert pre_tokenizer_name(tokenizer.backend) == name


def sentencepiece_metadata(**changes):
    words = ["▁", "a", "b", "c", "▁a", "bc", "abc", "▁abc", "中"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    merged = {"▁a": -3.0, "bc": -1.0, "abc": -2.0, "▁abc": -4.0}
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [merged.get(token, -100.0) for token in tokens],
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(words)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    } | changes


def test_sentencepiece_merges_by_score_and_spells_the_rest_in_bytes():
    tokenizer = from_gguf(sentencepiece_metadata())
    ids = tokenizer.encode("abc 中é</s>")
    assert [tokenizer.token_text(token_id) for token_id in ids][:4] == ["▁abc", "▁", "中", "<0xC3>"]
    assert tokenizer.special_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == "abc 中é</s>"
    assert tokenizer.token_bytes(ids[0]) == b" abc"
    assert tokenizer.add_bos_token


def test_sentencepiece_round_trip(tmp_path):
    tokenizer = from_gguf(sentencepiece_metadata())
    values = to_gguf(tokenizer)
    assert values["tokenizer.ggml.token_type"] == sentencepiece_metadata()["tokenizer.ggml.token_type"]
    tokenizer.save(tmp_path)
    for other in (from_gguf(values), load_tokenizer(tmp_path)):
        for text in ("abc 中é", " a", "bcabc  x"):
            assert other.encode(text) == tokenizer.encode(text)
            assert other.decode(other.encode(text)) == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "model is 'bert'; supported are 'gpt2'"),
        ({"tokenizer.ggml.pre": "odd"}, "pre-tokenizer 'odd' .* known are .*gpt-2.*smollm"),
        ({"tokenizer.ggml.tokens": []}, "tokenizer.ggml.tokens is missing"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges is missing"),
        ({"tokenizer.ggml.merges": ["a b c"]}, "merges holds 'a b c', which is not a pair"),
        ({"tokenizer.ggml.merges": ["a qqq"]}, "`qqq` out of vocabulary"),
        ({"tokenizer.ggml.token_type": [1]}, "token_type has 1 entries for 400 tokens"),
        ({"tokenizer.ggml.tokens": ["a"] * 400}, "tokens holds 'a' twice"),
        (
            {"tokenizer.ggml.eos_token_id": 900},
            r"eos_token_ids\[0\] is 900, but the vocabulary has ids 0 to 399",
        ),
    ],
)
def test_broken_metadata(tiny_tokenizer, changes, message):
    with pytest.raises(TokenizerError, match=message):
        from_gguf(to_gguf(tiny_tokenizer) | changes)
