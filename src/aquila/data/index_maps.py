"""The order in which Megatron-LM (and with it the original training scripts) reads a shard, reproduced bit for bit.

Three arrays beside the shard, `<prefix>_<split>_indexmap_<N>ns_<L>sl_<seed>s_{doc,sample,shuffle}_idx.npy`:

    doc_idx      documents of all epochs, shuffled
    sample_idx   row k: place in doc_idx and token offset where sample k begins; samples of L + 1 tokens overlap by one
    shuffle_idx  order of the samples

Our own loader needs none of them (`blend.py`); they are for runs of other programs to be repeated or looked into.
Source: Megatron-LM, `gpt_dataset.py`; the splitting of documents, `get_train_valid_test_split_`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from aquila.errors import ConfigError, DataError
from aquila.files import atomic_write

SPLITS = ("train", "valid", "test")
_LAST_EPOCH_SHARE = 0.8  # an incomplete last epoch with fewer of its samples than this is shuffled apart


@dataclass(frozen=True)
class IndexMaps:
    """One split's order of reading; see the file's docstring."""

    doc_idx: np.ndarray
    sample_idx: np.ndarray
    shuffle_idx: np.ndarray

    def save(self, prefix: Path, split: str, *, num_samples: int, sequence_length: int, seed: int) -> list[Path]:
        """Writes the three files beside the shard, under the names that other programs look for."""
        stem = f"{prefix.name}_{split}_indexmap_{num_samples}ns_{sequence_length}sl_{seed}s"
        paths = [prefix.with_name(f"{stem}_{kind}_idx.npy") for kind in ("doc", "sample", "shuffle")]
        for path, array in zip(paths, (self.doc_idx, self.sample_idx, self.shuffle_idx), strict=True):
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.save(file, array)
        return paths


def split_documents(num_documents: int, split: str) -> list[range]:
    """Documents of train, valid and test for a split such as `90,10` or `969/30/1`.

    Raises:
        ConfigError: `split` is not up to three numbers, or they are all 0.
    """
    words = split.replace("/", ",").split(",")
    try:
        shares = [float(word) for word in words]
    except ValueError:
        raise ConfigError(f"split {split!r} is not numbers; write train, valid and test such as 90,10,0") from None
    if not 1 <= len(shares) <= len(SPLITS) or min(shares) < 0 or not 0 < sum(shares) < float("inf"):
        raise ConfigError(f"split {split!r} is not one to three shares; write train, valid and test such as 90,10,0")
    shares += [0.0] * (len(SPLITS) - len(shares))
    bounds = [0]
    for share in shares:
        bounds.append(bounds[-1] + round(share / sum(shares) * num_documents))
    surplus = bounds[-1] - num_documents
    bounds = [0, *(bound - surplus for bound in bounds[1:])]
    return [range(start, max(start, stop)) for start, stop in pairwise(bounds)]


def parse_counts(text: str) -> list[int]:
    """Samples of train, valid and test out of `90,10` or `90,10,0`."""
    words = text.split(",")
    if len(words) > len(SPLITS) or not all(word.strip().isdecimal() for word in words):
        raise ConfigError(f"num_samples {text!r} is not up to three whole numbers; write train,valid,test: 90,10,0")
    counts = [int(word) for word in words]
    return counts + [0] * (len(SPLITS) - len(counts))


def build_index_maps(
    lengths: Sequence[int] | np.ndarray, documents: range, *, num_samples: int, sequence_length: int, seed: int
) -> IndexMaps:
    """Index maps for at least `num_samples` samples of `sequence_length` + 1 tokens.

    Args:
        lengths: tokens of each document of the shard.
        documents: those of the split.
        num_samples: as asked for; whole epochs are made, so there are usually more.
        sequence_length: in tokens.
        seed: of numpy's `RandomState`.

    Raises:
        DataError: the split has too few tokens for a sample.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    epoch_tokens = int(lengths[documents.start : documents.stop].sum())
    if epoch_tokens < 2:
        raise DataError(f"the split has {epoch_tokens} tokens in {len(documents)} documents; no sample can be made")
    epochs = 1
    while (epochs * epoch_tokens - 1) // sequence_length < num_samples:
        epochs += 1
    before_last = ((epochs - 1) * epoch_tokens - 1) // sequence_length
    of_last = num_samples - before_last
    apart = epochs > 1 and of_last < int(_LAST_EPOCH_SHARE * ((epoch_tokens - 1) // sequence_length))
    random = np.random.RandomState(seed)  # the bit stream that Megatron draws from
    doc_idx = _document_order(documents, epochs, random, last_apart=apart)
    sample_idx = _sample_starts(lengths, doc_idx, sequence_length, (epochs * epoch_tokens - 1) // sequence_length)
    shuffle_idx = _sample_order(before_last if apart else len(sample_idx) - 1, len(sample_idx) - 1, random)
    return IndexMaps(doc_idx, sample_idx, shuffle_idx)


def _document_order(documents: range, epochs: int, random: np.random.RandomState, *, last_apart: bool) -> np.ndarray:
    groups = [epochs - 1, 1] if last_apart else [epochs]
    shuffled = []
    for group in groups:
        order = np.tile(np.asarray(documents, dtype=np.int32), group)
        random.shuffle(order)
        shuffled.append(order)
    return np.concatenate(shuffled)


def _sample_starts(lengths: np.ndarray, doc_idx: np.ndarray, sequence_length: int, num_samples: int) -> np.ndarray:
    """Where each sample begins, and where the last one ends, int32 `[num_samples + 1, 2]`."""
    ends = np.cumsum(lengths[doc_idx])
    places = np.arange(num_samples + 1, dtype=np.int64) * sequence_length  # of first tokens in the stream of all epochs
    document = np.searchsorted(ends, places, side="right")
    begins = np.concatenate([[0], ends])[document]
    return np.stack([document, places - begins], axis=1).astype(np.int32)


def _sample_order(num_apart: int, total: int, random: np.random.RandomState) -> np.ndarray:
    dtype = np.uint32 if total < np.iinfo(np.uint32).max - 1 else np.int64
    first = np.arange(num_apart, dtype=dtype)
    random.shuffle(first)
    if num_apart == total:
        return first
    last = np.arange(num_apart, total, dtype=dtype)
    random.shuffle(last)
    return np.concatenate([first, last])
