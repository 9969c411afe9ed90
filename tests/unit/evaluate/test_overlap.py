"""Runs of words and characters, against looking at every place by hand."""

import random
import string

import pytest

from aquila.evaluate import overlap
from aquila.evaluate.overlap import CHARACTERS, WORDS, Found, Index, Part

WORD_LIST = [f"word{number}" for number in range(40)]


def search(index: Index, *texts: str) -> dict[int, Found]:
    found: dict[int, Found] = {}
    assert index.search(iter(texts), found) == len(texts)
    return found


def spread(words: list[str]) -> str:
    """With so much between them that no 50 characters can be found."""
    return " \n, ".join(words)


def test_thirteen_words_are_found_and_twelve_are_not():
    index = Index([Part("a", "prompt", " ".join(WORD_LIST))])
    assert search(index, "x " + spread(WORD_LIST[5:18]) + " y")[0].words == {5}
    assert search(index, "x " + spread(WORD_LIST[5:17]) + " y " + spread(WORD_LIST[17:29])) == {}


def test_case_and_what_stands_between_words_make_no_difference():
    index = Index(
        [Part("a", "solution", "def add(first, second):\n    return first + second  # the sum of a and b, too")]
    )
    found = search(index, "DEF Add first;second { return\tfirst - second } // The SUM of a AND b too")
    assert found[0].words == {0, 1}
    assert found[0].characters == set()


@pytest.mark.parametrize(
    ("length", "places"), [(CHARACTERS - 1, set()), (CHARACTERS, {7}), (CHARACTERS + 2, {7, 8, 9})]
)
def test_fifty_characters_are_found_and_forty_nine_are_not(length: int, places: set[int]):
    text = "".join(random.Random(1).choices(string.ascii_letters + "+-*/()[]", k=90))
    index = Index([Part("a", "test", text)])
    shown = "\n  ".join(text[7 : 7 + length])  # white space is none
    found = search(index, "prefix~" + shown + "~suffix")
    assert (found[0].characters if found else set()) == places
    assert (found[0].longest if found else 0) == (length if places else 0)


def test_a_character_beyond_ascii_is_one_character():
    chinese = "".join(chr(0x4E00 + number) for number in random.Random(2).sample(range(8000), 90))
    index = Index([Part("a", "prompt", chinese)])
    found = search(index, "＊" + chinese[10 : 10 + CHARACTERS] + "＊")
    assert (found[0].characters, found[0].longest) == ({10}, CHARACTERS)
    assert search(index, "＊" + chinese[10 : 10 + CHARACTERS - 1] + "＊")[0].characters == set()
    assert search(index, chinese[:WORDS])[0].words == {0}  # each of them is a word
    assert search(index, chinese[: WORDS - 1]) == {}


def by_hand(part: str, text: str) -> tuple[set[int], set[int]]:
    ours, theirs = part.split(), text.split()
    runs = {tuple(theirs[at : at + WORDS]) for at in range(len(theirs) - WORDS + 1)}
    words = {at for at in range(len(ours) - WORDS + 1) if tuple(ours[at : at + WORDS]) in runs}
    joined, whole = "".join(ours), "".join(theirs)
    characters = {at for at in range(len(joined) - CHARACTERS + 1) if joined[at : at + CHARACTERS] in whole}
    return words, characters


def test_equals_a_search_by_hand_wherever_documents_and_blocks_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overlap, "BLOCK_CHARACTERS", 400)
    monkeypatch.setattr(overlap, "_OVERLAP", 300)
    generator = random.Random(3)
    vocabulary = ["alpha", "β", "x1", "变", "longer_name", "of", "é"]
    parts = [Part(f"item/{n}", "text", " ".join(generator.choices(vocabulary, k=60))) for n in range(6)]
    texts = []
    for _ in range(60):
        words = generator.choices(vocabulary, k=generator.randrange(150))
        source = parts[generator.randrange(6)].text.split()
        start = generator.randrange(50)
        words[20:20] = source[start : start + generator.randrange(30)]
        texts.append(" ".join(words))
    found = search(Index(parts), *texts)
    expected = {}
    for number, part in enumerate(parts):
        each = [by_hand(part.text, text) for text in texts]
        words, characters = (set().union(*sets) for sets in zip(*each, strict=True))
        if words or characters:
            expected[number] = (words, characters)
    assert len(expected) == 6
    assert {number: (each.words, each.characters) for number, each in found.items()} == expected


def test_the_end_of_a_document_and_the_start_of_the_next_are_no_run():
    index = Index([Part("a", "prompt", " ".join(WORD_LIST))])
    assert search(index, " ".join(WORD_LIST[:8]), " ".join(WORD_LIST[8:16])) == {}
    assert search(index, " ".join(WORD_LIST[:8]) + "\0" + " ".join(WORD_LIST[8:16]))[0].words == {0, 1, 2, 3}


def test_examples_name_the_document_and_are_few():
    index = Index([Part("a", "prompt", " ".join(WORD_LIST))])
    [found] = search(index, "nothing", *([" ".join(WORD_LIST[:14])] * 9)).values()
    assert [document for document, _ in found.examples] == [1, 2, 3]
    assert found.examples[0][1] == " ".join(WORD_LIST[:WORDS])


def test_what_many_items_share_is_their_form_and_not_looked_for():
    head = " ".join(WORD_LIST[:20])
    parts = [Part(f"i/{n}", "test", f"{head} " + " ".join(f"own{n}x{k}" for k in range(20))) for n in range(9)]
    index = Index(parts)
    assert index.num_shared > 0
    assert search(index, head) == {}
    assert set(search(index, parts[4].text)) == {4}
    assert set(search(Index(parts[:8]), head)) == set(range(8))  # eight are few enough


def test_counting_is_no_sign():
    numbers = ", ".join(map(str, range(20)))
    index = Index([Part("a", "test", f"[{numbers}]")])
    assert index.num_words == [0]
    assert search(index, f"x = [{numbers}]")[0].words == set()


def test_parts_that_are_too_short_are_counted_as_such():
    index = Index([Part("a", "solution", "return x"), Part("a", "test", "")])
    assert (index.num_words, index.num_characters) == ([0, 0], [0, 0])
    assert search(index, "return x", "") == {}
