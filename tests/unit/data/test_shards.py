"""Token shards: Megatron's bytes both ways, and files that do not hold what they promise."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.data.shards import Shard, bin_path, idx_path, token_dtype, write_shard
from aquila.data.sidecar import Sidecar, tokenizer_digest
from aquila.errors import DataError
from aquila.tokenizer.load import load_tokenizer
from data_parts import pack_texts, write_documents
from parts import shared_data, tiny_tokenizer


def test_megatrons_own_files_are_written_byte_for_byte(tmp_path):
    golden = shared_data("megatron-demo") / "demo_text_document"
    shard = Shard(golden)
    assert (shard.num_documents, shard.num_tokens, shard.dtype) == (20, 33063, np.dtype("<u2"))
    copy = write_documents(tmp_path / "copy", [shard.document(index) for index in range(shard.num_documents)])
    assert bin_path(copy.prefix).read_bytes() == bin_path(golden).read_bytes()
    assert idx_path(copy.prefix).read_bytes() == idx_path(golden).read_bytes()


@given(st.lists(st.lists(st.integers(0, 99_999), max_size=9), min_size=1, max_size=9), st.sampled_from([320, 100_008]))
def test_what_is_written_is_read(tmp_path_factory, documents, vocab_size):
    prefix = tmp_path_factory.mktemp("shard") / "a"
    documents = [[min(token, vocab_size - 1) for token in document] for document in documents]
    shard = write_documents(prefix, documents, vocab_size=vocab_size)
    assert [shard.document(index).tolist() for index in range(shard.num_documents)] == documents
    assert shard.tokens.tolist() == [token for document in documents for token in document]


def test_an_index_is_laid_out_as_megatron_documents_it(tmp_path):
    write_documents(tmp_path / "a", [[5, 6, 7], [], [8]], vocab_size=100_008)
    expected = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 4, 3, 4)
    expected += struct.pack("<3i", 3, 0, 1) + struct.pack("<3q", 0, 12, 12) + struct.pack("<4q", 0, 1, 2, 3)
    assert (tmp_path / "a.idx").read_bytes() == expected
    assert (tmp_path / "a.bin").read_bytes() == struct.pack("<4i", 5, 6, 7, 8)


def test_documents_of_several_sequences_and_a_mode_array_are_read(tmp_path):
    lengths, documents = [2, 3, 1], [0, 2, 3]
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 3, 3)
    index = head + struct.pack("<3i", *lengths) + struct.pack("<3q", 0, 4, 10) + struct.pack("<3q", *documents)
    (tmp_path / "a.bin").write_bytes(np.arange(6, dtype="<u2").tobytes())
    for modes in (b"", b"\0\0\0"):
        (tmp_path / "a.idx").write_bytes(index + modes)
        shard = Shard(tmp_path / "a")
        assert [shard.document(place).tolist() for place in range(2)] == [[0, 1, 2, 3, 4], [5]]


def test_the_type_of_ids_follows_megatrons_rule():
    assert (token_dtype(65_499), token_dtype(65_500)) == (np.dtype("<u2"), np.dtype("<i4"))


def test_an_id_that_does_not_fit_leaves_nothing_behind(tmp_path):
    with pytest.raises(DataError, match="document 1: token id 65536 does not fit into uint16"):
        write_documents(tmp_path / "a", [[1], [65_536]])
    assert list(tmp_path.iterdir()) == []


def test_an_older_shard_stays_whole_when_writing_fails(tmp_path):
    write_documents(tmp_path / "a", [[1, 2], [3]])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError), write_shard(tmp_path / "a", token_dtype(320)) as writer:
        writer.add([4, -1])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def _truncate_bin(prefix):
    data = bin_path(prefix).read_bytes()
    bin_path(prefix).write_bytes(data[:-2])


def _lengthen_bin(prefix):
    with bin_path(prefix).open("ab") as file:
        file.write(b"\0\0")


def _patch_index(place, data):
    def patch(prefix):
        index = bytearray(idx_path(prefix).read_bytes())
        index[place : place + len(data)] = data
        idx_path(prefix).write_bytes(bytes(index))

    return patch


def _cut_index(size):
    def cut(prefix):
        idx_path(prefix).write_bytes(idx_path(prefix).read_bytes()[:size])

    return cut


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate_bin, r"a\.bin: 10 bytes, but its \.idx promises 12: it ends early"),
        (_lengthen_bin, r"a\.bin: 14 bytes, but its \.idx promises 12: it is longer than that"),
        (lambda prefix: bin_path(prefix).unlink(), r"a\.bin: no such file; a shard is a\.bin and a\.idx"),
        (lambda prefix: idx_path(prefix).unlink(), r"a\.idx: no such file"),
        (_cut_index(20), r"a\.idx: 20 bytes are less than a header"),
        (_cut_index(-8), r"a\.idx: 74 bytes, but 2 sequences and 3 boundaries take 82"),
        (_patch_index(18, struct.pack("<Q", 1 << 60)), r"a\.idx: 82 bytes, but 1152921504606846976 sequences"),
        (_patch_index(0, b"TNTIDX\0\0\0"), r"Megatron's older format \(TNTIDX\)"),
        (_patch_index(0, b"PK"), r"does not begin with MMIDIDX"),
        (_patch_index(9, struct.pack("<Q", 2)), r"version 2 is unknown"),
        (_patch_index(17, b"\x06"), r"dtype code 6 is no whole number"),
        (_patch_index(34, struct.pack("<i", 3)), r"sequence 1 does not begin where the one before it ends"),
        (_patch_index(34, struct.pack("<i", -2)), r"sequence 0 does not begin where the one before it ends"),
        (_patch_index(66, struct.pack("<q", 9)), r"its documents do not run from 0 to 2"),
    ],
)
def test_a_damaged_shard_is_one_clear_line(tmp_path, damage, message):
    prefix = tmp_path / "a"
    write_documents(prefix, [[1, 2, 3, 4], [5, 6]])
    damage(prefix)
    with pytest.raises(DataError, match=message) as caught:
        Shard(prefix)
    assert "\n" not in str(caught.value)


def test_the_note_beside_a_shard_names_its_tokenizer(tmp_path):
    shard = pack_texts(tmp_path / "a", ["one", "two"])
    assert shard.sidecar is not None
    assert shard.sidecar.tokenizer == tokenizer_digest(tiny_tokenizer())
    assert (shard.sidecar.num_documents, shard.sidecar.num_bytes) == (2, 6)


def test_a_note_of_another_shard_is_refused(tmp_path):
    pack_texts(tmp_path / "a", ["one", "two"])
    note = (tmp_path / "a.json").read_text(encoding="utf-8").replace('"num_documents": 2', '"num_documents": 3')
    (tmp_path / "a.json").write_text(note, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json: speaks of 3 documents and \d+ tokens, the shard beside it has 2"):
        Shard(tmp_path / "a")
    (tmp_path / "a.json").write_text('{"name": "my own settings"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json: not what `aquila data pack` writes \(tokenizer: Field required\)"):
        Sidecar.read(tmp_path / "a")


def test_a_vocabulary_has_one_digest_in_every_file_form(tmp_path, published):
    published.save(tmp_path)
    assert tokenizer_digest(load_tokenizer(tmp_path)) == tokenizer_digest(published)
    assert tokenizer_digest(tiny_tokenizer()) != tokenizer_digest(tiny_tokenizer(330))
