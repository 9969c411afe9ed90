"""Streaming text: whole characters, no part of a stop string, the same text for every split into tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.errors import ConfigError
from aquila.tokenizer.samples import SAMPLES
from aquila.tokenizer.stream import StreamDecoder
from aquila.tokenizer.tokenizer import Tokenizer
from aquila.tokenizer.train import train_tokenizer

TINY = train_tokenizer(SAMPLES.values(), vocab_size=400)

TEXT = st.text(alphabet="ab#\n é中😀\ufffd", max_size=24)
STOPS = st.lists(st.text(alphabet="ab#\n中😀\ufffd", min_size=1, max_size=4), max_size=3)
ANY_IDS = st.lists(st.integers(min_value=0, max_value=TINY.vocab_size + 3), max_size=24)


def split_into_tokens(text: str, cuts: list[int]) -> list[int]:
    """Single bytes, or the tokenizer's own tokens between the cuts."""
    pieces, start = [], 0
    for cut in sorted({min(cut, len(text)) for cut in cuts}):
        pieces.append(text[start:cut])
        start = cut
    return [token_id for piece in [*pieces, text[start:]] for token_id in TINY.encode(piece)]


def byte_tokens(text: str) -> list[int]:
    return [BYTE_IDS[byte] for byte in text.encode()]


BYTE_IDS = {
    TINY.token_bytes(token_id)[0]: token_id
    for token_id in range(TINY.vocab_size)
    if len(TINY.token_bytes(token_id)) == 1
}


def cut_at_stop(text: str, stops: list[str]) -> str:
    """The reference: read character by character until some stop string is complete."""
    for end in range(1, len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            return text[: end - max(map(len, met))]
    return text


def emit(ids: list[int], stops: list[str]) -> tuple[list[str], StreamDecoder]:
    decoder = StreamDecoder(TINY, stops)
    emitted = [decoder.push(token_id) for token_id in ids]
    return [*emitted, decoder.flush()], decoder


@given(TEXT, st.lists(st.integers(0, 24), max_size=6), STOPS)
def test_every_split_gives_the_text_up_to_the_first_stop(text, cuts, stops):
    expected = cut_at_stop(text, stops)
    for ids in (split_into_tokens(text, cuts), byte_tokens(text)):
        emitted, decoder = emit(ids, stops)
        assert "".join(emitted) == expected
        assert decoder.stopped == (expected != text)


@given(ANY_IDS, STOPS)
def test_any_tokens_give_the_batch_decode_up_to_the_first_stop(ids, stops):
    """Broken UTF-8, special tokens and ids without a token included."""
    emitted, _ = emit(ids, stops)
    assert "".join(emitted) == cut_at_stop(TINY.decode(ids), stops)


@given(TEXT, STOPS)
def test_nothing_shown_is_ever_taken_back(text, stops):
    """Shown is always a beginning of the final text, short of any ending that may become a stop string."""
    decoder, shown = StreamDecoder(TINY, stops), ""
    for end in range(1, len(text) + 1):
        shown += "".join(decoder.push(token_id) for token_id in byte_tokens(text[end - 1]))
        assert cut_at_stop(text, stops).startswith(shown)
        held = 0 if decoder.stopped else end - len(shown)
        begun = [n for stop in stops for n in range(1, len(stop)) if text[:end].endswith(stop[:n])]
        assert decoder.stopped or held == max(begun, default=0)


def test_half_a_character_waits():
    decoder = StreamDecoder(TINY)
    assert [decoder.push(token_id) for token_id in byte_tokens("a中b")] == ["a", "", "", "中", "b"]


def test_half_a_character_at_the_end_is_a_replacement():
    decoder = StreamDecoder(TINY)
    assert decoder.push(BYTE_IDS[0xE4]) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.flush() == ""


def test_half_a_character_where_the_text_was_cut_is_left_out():
    decoder = StreamDecoder(TINY, ["b#"])
    assert "".join(decoder.push(token_id) for token_id in byte_tokens("a中b")) == "a中"
    assert decoder.push(BYTE_IDS[0xE4]) == ""
    assert decoder.flush(cut=True) == "b"
    assert decoder.flush() == ""


def test_a_stop_string_across_tokens_is_cut_off():
    decoder = StreamDecoder(TINY, ["###"])
    assert [decoder.push(token_id) for token_id in byte_tokens("a##b###c")] == [
        "a",
        "",
        "",
        "##b",
        "",
        "",
        "",
        "",
    ]
    assert (decoder.stopped, decoder.stop_reason, decoder.flush()) == (True, "###", "")


def test_an_unfinished_stop_string_is_text_after_all():
    decoder = StreamDecoder(TINY, ["</s>"])
    assert [decoder.push(token_id) for token_id in byte_tokens("x</s")] == ["x", "", "", ""]
    assert decoder.flush() == "</s"
    assert decoder.stop_reason is None


def test_special_tokens_are_silent_unless_asked_for():
    token_id = TINY.token_id("<|im_end|>")
    assert StreamDecoder(TINY).push(token_id) == ""
    assert StreamDecoder(TINY, skip_special=False).push(token_id) == "<|im_end|>"


def test_empty_stop_string_is_refused():
    with pytest.raises(ConfigError, match="stop string is empty"):
        StreamDecoder(TINY, ["###", ""])


def test_one_push_can_hold_text_stop_and_more(tiny_tokenizer: Tokenizer):
    backend = train_tokenizer(["x"], vocab_size=300).backend
    backend.add_tokens(["end###more"])
    tokenizer = Tokenizer(backend)
    decoder = StreamDecoder(tokenizer, ["###"])
    assert decoder.push(tokenizer.token_id("end###more")) == "end"
    assert decoder.stop_reason == "###"
