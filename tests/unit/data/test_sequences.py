"""Sequences out of documents: every token learned once, nothing lost, and rows as a slow reading makes them."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.data.batch import IGNORE, PADDING
from aquila.data.packing import best_fit, one_a_bin
from aquila.data.sequences import ConcatSequences, PackedSequences, Piece, assemble, cut_documents
from aquila.errors import DataError
from data_parts import write_documents

DOCUMENTS = st.lists(st.integers(0, 14), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) > 1)


def numbered(tmp_path_factory, lengths):
    """A shard in which every token is another id."""
    ends = np.cumsum([0, *lengths])
    prefix = tmp_path_factory.mktemp("shard") / "a"
    return write_documents(prefix, [range(a, b) for a, b in pairwise(ends)])


def slow_row(tokens, document_of, start, length, *, document_mask):
    """A row, place by place."""
    row = np.full((4, length), [[0], [IGNORE], [PADDING], [0]])
    for place in range(length):
        here = start + place
        if here + 1 >= len(tokens):
            break
        same = document_of[here] == document_of[here + 1]
        row[0, place] = tokens[here]
        row[1, place] = tokens[here + 1] if same or not document_mask else IGNORE
        first = max(start, document_of.index(document_of[here])) if document_mask else start
        row[2, place] = len(set(document_of[start : here + 1])) - 1 if document_mask else 0
        row[3, place] = here - first
    return row


@given(DOCUMENTS, st.integers(2, 9), st.booleans())
def test_the_stream_is_cut_as_a_slow_reading_says(tmp_path_factory, lengths, length, document_mask):
    shard = numbered(tmp_path_factory, lengths)
    sequences = ConcatSequences(shard, range(len(lengths)), length, document_mask=document_mask)
    document_of = [document for document, size in enumerate(lengths) for _ in range(size)]
    for index in range(sequences.num_sequences):
        expected = slow_row(shard.tokens.tolist(), document_of, index * length, length, document_mask=document_mask)
        assert sequences.row(index, 0).tolist() == expected.tolist()


def learned_once(lengths):
    """Every token that has one before it in its document."""
    ends = np.cumsum(lengths)
    return {token: 1 for end, size in zip(ends, lengths, strict=True) for token in range(end - size + 1, end)}


def targets(sequences):
    rows = [sequences.row(index, 0) for index in range(sequences.num_sequences)]
    return Counter(int(label) for row in rows for label in row[1] if label != IGNORE)


@given(DOCUMENTS, st.integers(2, 9))
def test_each_token_is_learned_once_an_epoch_however_it_is_packed(tmp_path_factory, lengths, length):
    shard = numbered(tmp_path_factory, lengths)
    documents = range(len(lengths))
    expected = learned_once(lengths)
    assert targets(ConcatSequences(shard, documents, length)) == expected
    cuts = cut_documents(shard.starts, documents, length)
    for bins in (best_fit(cuts[:, 1] - cuts[:, 0] - 1, length), one_a_bin(len(cuts))):
        packed = PackedSequences(
            bins, lambda index: Piece(shard.tokens[slice(*cuts[index])]), length, num_tokens=shard.num_tokens
        )
        assert targets(packed) == expected


@given(st.lists(st.integers(1, 20), max_size=60))
def test_packing_keeps_every_piece_and_fills_sequences(sizes):
    bins = best_fit(np.array(sizes, dtype=np.int64), 20)
    groups = [bins[index] for index in range(len(bins))]
    assert sorted(item for group in groups for item in group) == list(range(len(sizes)))
    loads = [sum(sizes[item] for item in group) for group in groups]
    assert all(load <= 20 for load in loads)
    assert len(bins) <= 11 / 9 * -(-sum(sizes) // 20) + 4 or sum(loads) > 10 * len(
        loads
    )  # Johnson's bound is on optimal
    smallest = sorted(loads)[:2]
    assert len(smallest) < 2 or sum(smallest) > 20 or len(bins) == 1  # no two of them would go into one


def test_the_fullest_sequence_with_room_is_taken():
    bins = best_fit(np.array([9, 7, 3, 1]), 10)
    assert [bins[index] for index in range(len(bins))] == [[0, 3], [1, 2]]


def test_a_piece_larger_than_a_sequence_is_refused():
    with pytest.raises(DataError, match="a piece of 21 places does not fit into a sequence of 20"):
        best_fit(np.array([3, 21]), 20)


def test_packed_pieces_are_documents_of_their_own():
    pieces = [
        Piece(np.array([1, 2, 3])),
        Piece(np.array([4])),
        Piece(np.array([5, 6, 7]), np.array([False, False, True])),
    ]
    row = assemble(pieces, 6, document_mask=True)
    assert row.tolist() == [
        [1, 2, 5, 6, 0, 0],
        [2, 3, IGNORE, 7, IGNORE, IGNORE],
        [0, 0, 1, 1, PADDING, PADDING],
        [0, 1, 0, 1, 0, 0],
    ]


def test_without_a_mask_pieces_are_one_document():
    pieces = [Piece(np.array([1, 2, 3])), Piece(np.array([5, 6]), np.array([False, True]))]
    row = assemble(pieces, 6, document_mask=False)
    assert row.tolist() == [
        [1, 2, 3, 5, 0, 0],
        [2, 3, IGNORE, 6, IGNORE, IGNORE],
        [0, 0, 0, 0, PADDING, PADDING],
        [0, 1, 2, 3, 0, 0],
    ]
