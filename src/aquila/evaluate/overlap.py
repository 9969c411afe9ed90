"""What texts have in common with a benchmark: runs of 13 words and of 50 characters.

A word is a run of letters, digits and underscores, or one Chinese or Japanese character; case and all else between
words make no difference, so code that was formatted anew is found. Characters are compared as they are, without white
space. Both lengths are those of published decontaminations: 13 words in Brown et al. 2020 (arXiv:2005.14165, appendix
C), 50 characters in OpenAI 2023 (arXiv:2303.08774, appendix C).

Hashes only propose; what is found has been compared as text. Only the benchmark is kept in memory. Words: all hashes of
13 in a row are looked up. Characters: any 50 in a row hold one of the windows of 26 bytes that begin at multiples of
25, so only those are looked up, and what fits is extended both ways.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from jaxtyping import Bool, Int, UInt, UInt8

from aquila.evaluate.verdict import one_line

WORDS, CHARACTERS = 13, 50
MAX_EXAMPLES = 3  # of a part
BLOCK_CHARACTERS = 1 << 18  # that are hashed together: their arrays fit into a cache
_OVERLAP = 4096  # of pieces of a longer text
_SHARED_BY = 8  # more items than this, and than a twentieth of all, have it: it belongs to the benchmark's form
_STEP, _WINDOW = 25, 26  # _STEP + _WINDOW - 1 == CHARACTERS
_FILTER_BITS = 22
_BASE = 0x9E3779B97F4A7C15  # odd: has an inverse modulo 2**64
_MIX = np.uint64(0xBF58476D1CE4E5B9)  # splitmix64's
_WEIGHTS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
_SPACES = (b"\xe3\x80\x80", b"\xc2\xa0")  # ideographic and no-break space in UTF-8
_BETWEEN = "\0"  # documents of a block; a word of its own that no benchmark has


@dataclass(frozen=True)
class Part:
    """A text of a benchmark's item, such as its prompt."""

    item: str
    name: str
    text: str


@dataclass
class Found:
    """What of a part was found.

    Attributes:
        words: places, in words, where a run of 13 begins that was found.
        characters: places, in characters without white space, where one of 50 does.
        longest: characters in a row.
        examples: number of the document, and what stands there.
    """

    words: set[int] = field(default_factory=set)
    characters: set[int] = field(default_factory=set)
    longest: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)

    def add_example(self, document: int, text: str) -> None:
        if len(self.examples) < MAX_EXAMPLES and all(document != known for known, _ in self.examples):
            self.examples.append((document, one_line(text)[:160]))


class Index:
    """A benchmark's runs, to look texts up in.

    Attributes:
        parts: as given.
        num_words: runs of 13 words of each part that are looked for.
        num_characters: runs of 50 characters of each part that are.
        num_shared: runs that are not looked for, because so many items have them.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self._texts = [part.text.replace(_BETWEEN, " ") for part in parts]
        items = {item: index for index, item in enumerate(dict.fromkeys(part.item for part in parts))}
        owners = [items[part.item] for part in parts]
        self.num_shared = 0
        self._lists = [_words_of(text) for text in self._texts]
        words = [_windows(_hash_words(text)[2], WORDS) for text in self._texts]
        rare_words = self._keep_rare(words, owners, len(items))
        for kept, listed in zip(rare_words, self._lists, strict=True):
            kept &= ~_numbers_only(listed)
        self.num_words = [int(kept.sum()) for kept in rare_words]
        self._words = _Lookup(
            [hashes[kept] for hashes, kept in zip(words, rare_words, strict=True)],
            [np.flatnonzero(kept) for kept in rare_words],
        )
        self._bytes = [_without_spaces(text) for text in self._texts]
        self._strings = [data.decode("utf-8", "surrogatepass") for data in self._bytes]
        characters = [_windows(_codes(text).astype(np.uint64) + np.uint64(1), CHARACTERS) for text in self._strings]
        self._rare = self._keep_rare(characters, owners, len(items))
        self.num_characters = [int(kept.sum()) for kept in self._rare]
        self._offsets = [_byte_offsets(text) for text in self._strings]
        places = [self._useful_windows(index) for index in range(len(parts))]
        self._characters = _Lookup(
            [_hash_bytes(data, 1)[chosen] for data, chosen in zip(self._bytes, places, strict=True)], places
        )

    def search(self, texts: Iterable[str], found: dict[int, Found]) -> int:
        """Looks documents up, and adds what they hold to `found`, by number of the part.

        Documents are numbered from 0 on, in the order they come; a long one is read in pieces that overlap.

        Returns:
            How many there were.
        """
        block: list[str] = []
        size, count = 0, 0
        for text in texts:
            if len(text) > 2 * BLOCK_CHARACTERS:
                self._search(block, found, count - len(block))
                for start in range(0, len(text), BLOCK_CHARACTERS):
                    self._search([text[start : start + BLOCK_CHARACTERS + _OVERLAP]], found, count)
                block, size = [], 0
            else:
                block.append(text)
                size += len(text)
            count += 1
            if size > BLOCK_CHARACTERS:
                self._search(block, found, count - len(block))
                block, size = [], 0
        self._search(block, found, count - len(block))
        return count

    def _search(self, texts: Sequence[str], found: dict[int, Found], first: int) -> None:
        block = _BETWEEN.join(text.replace(_BETWEEN, " ") for text in texts)
        self._search_words(block, found, first)
        self._search_characters(block, found, first)

    def _search_words(self, block: str, found: dict[int, Found], first: int) -> None:
        starts, ends, hashes = _hash_words(block)
        runs = _windows(hashes, WORDS)
        places = self._words.candidates(runs)
        lowered = _small(block) if len(places) else ""
        for place in places.tolist():
            for part, offset in self._words.owners(runs[place]):
                known = found.setdefault(part, Found())
                if offset in known.words and len(known.examples) == MAX_EXAMPLES:
                    continue
                inside = [
                    lowered[start:end]
                    for start, end in zip(
                        starts[place : place + WORDS].tolist(), ends[place : place + WORDS].tolist(), strict=True
                    )
                ]
                if inside == self._lists[part][offset : offset + WORDS]:
                    known.words.add(offset)
                    at = int(starts[place])
                    known.add_example(first + block.count(_BETWEEN, 0, at), block[at : int(ends[place + WORDS - 1])])
        _drop_empty(found)

    def _search_characters(self, block: str, found: dict[int, Found], first: int) -> None:
        data = _without_spaces(block)
        hashes = _hash_bytes(data, _STEP)
        places = self._characters.candidates(hashes)
        if not len(places):
            return
        documents = np.flatnonzero(np.frombuffer(data, np.uint8) == 0).tolist()
        seen: dict[tuple[int, int], int] = {}  # part and how far it is shifted -> end of the run there
        for window in places.tolist():
            place = window * _STEP
            for part, offset in self._characters.owners(hashes[window]):
                if seen.get((part, place - offset), -1) > place:
                    continue
                begin, end = _extend(data, place, self._bytes[part], offset)
                seen[part, place - offset] = end + place - offset
                if run := self._characters_of(part, begin, end):
                    known = found.setdefault(part, Found())
                    known.characters.update(run)
                    known.longest = max(known.longest, run[-1] + CHARACTERS - run[0])
                    at = begin + place - offset
                    text = self._strings[part][run[0] : run[-1] + CHARACTERS]
                    known.add_example(first + bisect_right(documents, at), text)

    def _characters_of(self, part: int, begin: int, end: int) -> list[int]:
        """Places of the runs of 50 characters in bytes [begin, end) of a part, those that count."""
        offsets = self._offsets[part]
        first = int(np.searchsorted(offsets, begin))
        after = int(np.searchsorted(offsets, end, side="right")) - 1  # characters that end at or before `end`
        return (first + np.flatnonzero(self._rare[part][first : max(after - CHARACTERS + 1, first)])).tolist()

    def _keep_rare(
        self, hashes: list[UInt[np.ndarray, " _"]], owners: list[int], num_items: int
    ) -> list[Bool[np.ndarray, " _"]]:
        """Which runs are not shared by so many items that they say nothing."""
        if not hashes:
            return []
        everything = np.concatenate(hashes)
        item = np.concatenate([np.full(len(each), owner) for each, owner in zip(hashes, owners, strict=True)])
        order = np.lexsort((item, everything))
        ordered, of_item = everything[order], item[order]
        fresh = np.ones(len(order), bool)  # the first of its hash and item
        fresh[1:] = (ordered[1:] != ordered[:-1]) | (of_item[1:] != of_item[:-1])
        values, counts = np.unique(ordered[fresh], return_counts=True)
        shared = values[counts > max(_SHARED_BY, num_items // 20)]
        self.num_shared += len(shared)
        return [~np.isin(each, shared) for each in hashes]

    def _useful_windows(self, part: int) -> Int[np.ndarray, " _"]:
        """Places of the windows that lie in a run of 50 characters that counts."""
        size, offsets = len(self._bytes[part]), self._offsets[part]
        covered = np.zeros(size + 1, np.int64)
        starts = np.flatnonzero(self._rare[part])
        np.add.at(covered, offsets[starts], 1)
        np.add.at(covered, offsets[starts + CHARACTERS], -1)
        inside = np.cumsum(covered) > 0
        return np.flatnonzero(inside[: max(size - _WINDOW + 1, 0)])


class _Lookup:
    """From hashes to the parts and places that they come from."""

    def __init__(self, hashes: list[UInt[np.ndarray, " _"]], places: list[Int[np.ndarray, " _"]]) -> None:
        everything = np.concatenate([*hashes, np.empty(0, np.uint64)])
        order = np.argsort(everything, kind="stable")
        self._hashes = everything[order]
        self._parts = np.repeat(np.arange(len(hashes)), [len(each) for each in hashes])[order]
        self._places = np.concatenate([*places, np.empty(0, np.int64)])[order]
        self._filter = np.zeros(1 << _FILTER_BITS, bool)
        self._filter[everything >> np.uint64(64 - _FILTER_BITS)] = True

    def candidates(self, hashes: UInt[np.ndarray, " n"]) -> Int[np.ndarray, " _"]:
        """Places in `hashes` whose hash is one of ours."""
        likely = np.flatnonzero(self._filter[hashes >> np.uint64(64 - _FILTER_BITS)])
        if not len(self._hashes):
            return likely
        wanted = hashes[likely]
        nearest = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        return likely[self._hashes[nearest] == wanted]

    def owners(self, value: np.uint64) -> list[tuple[int, int]]:
        low, high = np.searchsorted(self._hashes, value), np.searchsorted(self._hashes, value, side="right")
        return list(zip(self._parts[low:high].tolist(), self._places[low:high].tolist(), strict=True))


def _words_of(text: str) -> list[str]:
    starts, ends, _ = _hash_words(text)
    lowered = _small(text)
    return [lowered[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _numbers_only(words: Sequence[str]) -> Bool[np.ndarray, " _"]:
    """Which runs of 13 words are numbers throughout: counting to 13 is no sign of anything."""
    sums = np.concatenate([[0], np.cumsum([word.isdigit() for word in words])])
    return sums[WORDS:] - sums[:-WORDS] == WORDS if len(words) >= WORDS else np.empty(0, bool)


def _small(text: str) -> str:
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else text  # a few letters have a longer small form


def _hash_words(text: str) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], UInt[np.ndarray, " n"]]:
    """Where words begin and end, and a hash of each."""
    codes = _codes(_small(text))
    kinds = _kinds()[codes] if codes.dtype == np.uint8 else _kinds()[np.minimum(codes, 0xFFFF)]
    single = kinds == 2
    if codes.dtype != np.uint8:
        single |= codes >= 0x20000  # ideographs beyond the basic plane
    inside = (kinds == 1) & ~single
    padded = np.concatenate([[False], inside, [False]])
    edges = padded[1:] != padded[:-1]
    bounds = np.flatnonzero(edges)
    starts, ends = bounds[::2], bounds[1::2]
    if single.any():
        alone = np.flatnonzero(single)
        starts, ends = np.concatenate([starts, alone]), np.concatenate([ends, alone + 1])
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], ends[order]
    powers, inverses = _powers(1 << max(len(codes), 1).bit_length())
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * powers[: len(codes)], out=sums[1:])
    return starts, ends, _mixed((sums[ends] - sums[starts]) * inverses[starts])


def _windows(hashes: UInt[np.ndarray, " n"], length: int) -> UInt[np.ndarray, " _"]:
    """A hash of each `length` in a row: a polynomial modulo 2**64, put together from those of powers of two."""
    if len(hashes) < length:
        return np.empty(0, np.uint64)
    size, power, doubled = 1, _BASE, hashes
    total, done, weight = None, 0, 1
    while True:
        if length & size:
            shifted = doubled[done:] * np.uint64(weight)
            count = len(hashes) - length + 1
            total = shifted[:count] if total is None else total[:count] + shifted[:count]
            done, weight = done + size, weight * power % 2**64
        if done == length:
            assert total is not None
            return _mixed(total)
        doubled = doubled[:-size] + doubled[size:] * np.uint64(power)
        size, power = 2 * size, power * power % 2**64


def _hash_bytes(data: bytes, step: int) -> UInt[np.ndarray, " _"]:
    """A hash of the 26 bytes from each multiple of `step` on."""
    count = (len(data) - _WINDOW) // step + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    total = np.zeros(count, np.uint64)
    for offset, kind, weight in zip((0, 8, 16, 24), ("<u8", "<u8", "<u8", "<u2"), _WEIGHTS, strict=True):
        column = np.ndarray((count,), kind, buffer=data, offset=offset, strides=(step,))
        total += _mixed(column.astype(np.uint64) + np.uint64(offset)) * np.uint64(weight)
    return _mixed(total)


def _mixed(hashes: UInt[np.ndarray, " n"]) -> UInt[np.ndarray, " n"]:
    mixed = (hashes ^ (hashes >> np.uint64(32))) * _MIX
    return mixed ^ (mixed >> np.uint64(29))


def _extend(data: bytes, place: int, other: bytes, offset: int) -> tuple[int, int]:
    """The longest run around a window that both have, as [begin, end) in `other`; (0, 0) where they differ in it."""
    if data[place : place + _WINDOW] != other[offset : offset + _WINDOW]:
        return 0, 0
    begin = offset
    while begin and place + begin - offset > 0 and data[place + begin - offset - 1] == other[begin - 1]:
        begin -= 1
    end, shift = offset + _WINDOW, place - offset
    most = min(len(other), len(data) - shift)
    while end < most and data[end + shift] == other[end]:
        end += 1
    return begin, end


def _without_spaces(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass").translate(None, b" \t\r\n\v\f")
    if not data.isascii():
        for space in _SPACES:
            data = data.replace(space, b"")
    return data


def _codes(text: str) -> UInt8[np.ndarray, " n"] | UInt[np.ndarray, " n"]:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _byte_offsets(text: str) -> Int[np.ndarray, " n_plus_1"]:
    """Where each character begins in UTF-8 and, last, where the text ends."""
    sizes = np.ones(len(text), np.int64)
    if not text.isascii():
        codes = _codes(text)
        sizes += (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate([[0], np.cumsum(sizes)])


@cache
def _kinds() -> UInt8[np.ndarray, " 65536"]:
    """Of the basic plane: 1 is part of a word, 2 a word by itself, 0 neither."""
    kinds = np.array([chr(code).isalnum() or code == ord("_") for code in range(0x10000)], np.uint8)
    for low, high in ((0x3041, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0, 0)):
        kinds[low : high + 1] = 2
    return kinds


@cache
def _powers(count: int) -> tuple[UInt[np.ndarray, " n"], UInt[np.ndarray, " n"]]:
    """The base's powers from 0 on, modulo 2**64, and their inverses."""
    return _power_table(_BASE, count), _power_table(pow(_BASE, -1, 2**64), count)


def _power_table(base: int, count: int) -> UInt[np.ndarray, " n"]:
    table = np.full(count, base, np.uint64)
    table[0] = 1
    return np.cumprod(table)


def _drop_empty(found: dict[int, Found]) -> None:
    for part in [part for part, each in found.items() if not each.words and not each.characters]:
        del found[part]
