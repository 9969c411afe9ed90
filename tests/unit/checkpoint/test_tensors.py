"""Lazy tensors and their views."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.checkpoint import tensors
from aquila.checkpoint.tensors import DTYPES, LazyTensor, concatenate, from_array, take_rows
from aquila.errors import CheckpointError


def _numbered(rows: int, columns: int, first: int = 0) -> LazyTensor:
    return from_array(first + np.arange(rows * columns, dtype=np.float32).reshape(rows, columns))


@given(st.integers(1, 12), st.permutations(range(12)))
def test_a_permutation_reads_the_same_in_any_pieces(step: int, order: list[int]):
    taken = take_rows(_numbered(12, 3), np.array(order))
    pieces = [taken.read(start, min(start + step, 12)) for start in range(0, 12, step)]
    np.testing.assert_array_equal(np.concatenate(pieces), _numbered(12, 3).numpy()[order])


@pytest.mark.parametrize("axis", [0, 1])
def test_concatenated_parts_read_like_the_whole(axis: int):
    parts = [_numbered(4, 4), _numbered(4, 4, 100), _numbered(4, 4, 200)]
    joined = concatenate(parts, axis)
    whole = np.concatenate([part.numpy() for part in parts], axis)
    np.testing.assert_array_equal(joined.numpy(), whole)
    np.testing.assert_array_equal(joined.read(1, len(whole) - 1), whole[1:-1])


def test_chunks_cover_all_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensors, "CHUNK_BYTES", 40)
    chunks = list(_numbered(7, 4).chunks(DTYPES["fp16"]))
    assert [len(chunk) for chunk in chunks] == [2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(chunks), _numbered(7, 4).numpy())


def test_a_value_beyond_fp16_is_named():
    """Silently infinite weights would give a model that answers NaN."""
    with pytest.raises(CheckpointError, match=r"w\.weight: the value 70000 does not fit fp16 .* choose bf16 or fp32"):
        list(from_array(np.array([1.0, -70000.0], np.float32)).chunks(DTYPES["fp16"], "w.weight"))
