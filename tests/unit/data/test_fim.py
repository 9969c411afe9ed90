"""Fill in the middle: nothing of a document is lost, the order is one that editors ask in, and it always ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.data.blend import Dice
from aquila.data.config import FimConfig
from aquila.data.fim import FillInTheMiddle, block_cut, character_cut, line_cut
from aquila.data.pack_worker import frame
from aquila.data.sequences import ConcatSequences
from aquila.errors import ConfigError
from aquila.tokenizer.tokenizer import Tokenizer
from aquila.tokenizer.train import train_tokenizer
from data_parts import pack_texts
from parts import CORPUS, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MARKS = TOKENIZER.fim
assert MARKS is not None
CODE = "class A:\n    def f(self, x):\n        if x:\n            return 1\n\n        return 2\n\nprint(A)  # 打印\n"


def fim(**config) -> FillInTheMiddle:
    return FillInTheMiddle(TOKENIZER, 1.0, FimConfig(**config))


def text_bytes(ids) -> bytes:
    return b"".join(TOKENIZER.token_bytes(int(token)) for token in ids)


def read_back(ids: list[int]) -> tuple[str, bytes, bytes, bytes]:
    """Order, and the text before, between and after, as a reader of the marks takes them apart."""
    prefix, suffix, middle = (ids.index(mark) for mark in (MARKS.prefix, MARKS.suffix, MARKS.middle))
    text = text_bytes
    if suffix == prefix + 1:  # SPM: before and between stand together
        return "spm", text(ids[middle + 1 : -1]), b"", text(ids[suffix + 1 : middle])
    return "psm", text(ids[prefix + 1 : suffix]), text(ids[middle + 1 : -1]), text(ids[suffix + 1 : middle])


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=8, max_size=60), st.integers(0, 10**6))
def test_every_byte_of_a_document_stays(text, key):
    ids = np.array(frame(TOKENIZER, text))
    changed = fim().rearrange(ids, Dice(key))
    assert changed is not None
    _, before, between, after = read_back(changed.tolist())
    assert before + between + after == text.encode()
    assert (changed[0], changed[-1]) == (TOKENIZER.bos_token_id, TOKENIZER.eos_token_ids[0])


def test_both_orders_come_up_as_often_as_asked():
    ids = np.array(frame(TOKENIZER, CODE))
    for rate, low, high in ((0.0, 0, 20), (1.0, 200, 200), (0.25, 30, 80)):  # PSM with nothing before reads like SPM
        orders = [read_back(fim(spm_rate=rate).rearrange(ids, Dice(key)).tolist())[0] for key in range(200)]
        assert low <= orders.count("spm") <= high


def test_a_part_of_a_document_gets_an_end_too():
    """A cut through a document takes its end away; the model must still learn to stop after the middle."""
    ids = np.array(TOKENIZER.encode(CODE))
    changed = fim().rearrange(ids, Dice(3))
    assert changed[0] == MARKS.prefix
    assert changed[-1] == TOKENIZER.eos_token_ids[0]


def test_middles_of_lines_are_whole_lines():
    for key in range(50):
        start, stop = line_cut(CODE, Dice(key))
        assert start == 0 or CODE[start - 1] == "\n"
        assert CODE[stop] == "\n"
    assert line_cut("only one", Dice(1)) is None


def test_middles_of_blocks_are_the_lines_below_their_head():
    blocks = {CODE[slice(*block_cut(CODE, Dice(key)))] for key in range(60)}
    inner = "            return 1"
    body = f"        if x:\n{inner}\n\n        return 2"
    assert blocks == {inner, body, f"    def f(self, x):\n{body}"}
    assert block_cut("a\nb\n", Dice(1)) is None


@given(st.integers(2, 40), st.integers(0, 10**6))
def test_two_different_places_are_cut(count, key):
    start, stop = character_cut(count, Dice(key))
    assert 0 <= start < stop <= count


def test_ids_that_are_no_text_are_cut_between_tokens():
    half = TOKENIZER.encode("打")[:1]
    ids = half + TOKENIZER.encode("print(1, 'hello world')")
    changed = fim(spm_rate=0.0).rearrange(np.array(ids), Dice(5)).tolist()
    prefix, suffix, middle = (changed.index(mark) for mark in (MARKS.prefix, MARKS.suffix, MARKS.middle))
    assert changed[prefix + 1 : suffix] + changed[middle + 1 : -1] + changed[suffix + 1 : middle] == ids


def test_short_documents_stay():
    assert fim().rearrange(np.array(frame(TOKENIZER, "x = 1")), Dice(1)) is None


def test_a_sequence_holds_all_of_its_cut(tmp_path):
    """Rearranged or not, every document of a cut is in its sequence, whole, and the order depends on the key alone."""
    shard = pack_texts(tmp_path / "a")
    sequences = ConcatSequences(shard, range(shard.num_documents), 128, fim=fim())
    rearranged = 0
    for index in range(sequences.num_sequences):
        start = index * sequences.stride
        window = shard.tokens[start : start + sequences.stride + 1]
        cuts = [cut - start for cut in shard.starts if start < cut < start + len(window)]
        expected = [piece for piece in np.split(window, cuts) if len(piece) > 1]
        row = sequences.row(index, 99)
        assert row.tolist() == sequences.row(index, 99).tolist()
        documents = [row[:, row[2] == document] for document in range(row[2].max() + 1)]
        assert len(documents) == len(expected)
        for document, piece in zip(documents, expected, strict=True):
            ids = [*document[0].tolist(), int(document[1][-1])]
            if MARKS.prefix in ids:
                rearranged += 1
                assert b"".join(read_back(ids)[1:]) == text_bytes(piece)
            else:
                assert ids == piece.tolist()
    assert rearranged > sequences.num_sequences
    assert sequences.row(0, 1).tolist() != sequences.row(0, 2).tolist()


def test_marks_are_those_of_the_models_vocabulary(published):
    ids = np.array(frame(published, CODE))
    changed = FillInTheMiddle(published, 1.0, FimConfig(spm_rate=0.0)).rearrange(ids, Dice(1)).tolist()
    assert [token for token in changed if token >= 100_000] == [100_006, 100_003, 100_004, 100_005, 100_007]


def test_a_vocabulary_without_marks_is_refused():
    plain = train_tokenizer([CORPUS], vocab_size=300, specials=("<|endoftext|>",))
    with pytest.raises(ConfigError, match="fim_rate: this vocabulary has no fill-in-the-middle tokens; set it to 0"):
        FillInTheMiddle(plain, 0.5, FimConfig())
    endless = Tokenizer(
        train_tokenizer(
            [CORPUS], vocab_size=300, specials=("<a>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>")
        ).backend
    )
    with pytest.raises(ConfigError, match="no end token"):
        FillInTheMiddle(endless, 0.5, FimConfig())
