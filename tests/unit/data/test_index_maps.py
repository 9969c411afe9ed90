"""Megatron's index maps: the published ones bit for bit, and a slow twin for other shapes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.data.index_maps import build_index_maps, parse_counts, split_documents
from aquila.data.shards import Shard
from aquila.errors import ConfigError, DataError
from parts import shared_data


def test_the_published_maps_bit_for_bit(tmp_path):
    golden = shared_data("megatron-demo")
    shard = Shard(golden / "demo_text_document")
    train, valid, test = split_documents(shard.num_documents, "90,10")
    assert (train, valid, len(test)) == (range(18), range(18, 20), 0)
    maps = build_index_maps(shard.lengths, train, num_samples=90, sequence_length=1024, seed=2023)
    written = maps.save(tmp_path / "demo_text_document", "train", num_samples=90, sequence_length=1024, seed=2023)
    assert len(written) == 3
    for path in written:
        assert path.read_bytes() == (golden / path.name).read_bytes()


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(lambda lengths: sum(lengths) >= 2),
    st.integers(1, 9),
    st.integers(1, 30),
)
def test_samples_begin_where_a_walk_through_the_documents_says(lengths, sequence_length, num_samples):
    maps = build_index_maps(
        lengths, range(len(lengths)), num_samples=num_samples, sequence_length=sequence_length, seed=3
    )
    assert len(maps.shuffle_idx) >= num_samples
    assert sorted(maps.shuffle_idx.tolist()) == list(range(len(maps.shuffle_idx)))
    places = [
        (place, offset) for place, document in enumerate(maps.doc_idx) for offset in range(lengths[document])
    ]  # of every token, as Megatron's loop meets them
    assert [tuple(row) for row in maps.sample_idx.tolist()] == places[::sequence_length][: len(maps.sample_idx)]


@pytest.mark.parametrize("split", ["a,b", "", "1,2,3,4", "-1,2", "0,0", "nan"])
def test_a_split_that_is_none_is_refused(split):
    with pytest.raises(ConfigError, match="write train, valid and test such as 90,10,0"):
        split_documents(10, split)


def test_shares_never_go_beyond_the_documents():
    for count in range(12):
        parts = split_documents(count, "969/30/1")
        assert [document for part in parts for document in part] == list(range(count))


def test_counts_and_empty_splits_are_refused_in_one_line():
    assert parse_counts("90,10") == [90, 10, 0]
    with pytest.raises(ConfigError, match="num_samples '9,x' is not up to three whole numbers"):
        parse_counts("9,x")
    with pytest.raises(DataError, match="the split has 0 tokens in 0 documents"):
        build_index_maps([5, 5], range(2, 2), num_samples=1, sequence_length=2, seed=1)
