"""What a model fills in, cleaned: repeats of the suffix, and lines outside of the block."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.generate.middle import MiddleStream, clean_middle

SUFFIX = "\n    return total\n\n\ndef mean(values):\n    return sum(values) / len(values)\n"


def test_a_middle_that_the_model_ended_stays_as_it_is() -> None:
    assert clean_middle("    total = sum(values)  ", SUFFIX, ended=True) == "    total = sum(values)  "


def test_a_repeat_of_the_suffix_is_cut_where_it_begins() -> None:
    middle = "    total = sum(values)"
    assert clean_middle(middle + SUFFIX + "more", SUFFIX, ended=False) == middle
    stream = MiddleStream(SUFFIX)
    stream.push(middle + "\n    return total\n\n\ndef mean(values):\n")
    assert stream.done, "the rest need not be computed"


def test_a_line_that_stands_after_the_cursor_is_not_said_twice() -> None:
    assert clean_middle("a = 1\n    return total", SUFFIX, ended=True) == "a = 1"
    assert clean_middle("\n    return total", SUFFIX, ended=True) == ""
    assert clean_middle("a = 1\n    return tot", SUFFIX, ended=False) == "a = 1"
    assert clean_middle("a = 1\n    return tot", SUFFIX, ended=True) == "a = 1\n    return tot"


def test_code_that_says_the_same_line_twice_may() -> None:
    """`return None` is no repeat of the suffix while something else follows it."""
    suffix = "\n        return None\n    return 1\n"
    middle = "if a:\n        return None\n    if b:"
    assert clean_middle(middle, suffix, ended=True) == middle


def test_a_bracket_that_stands_after_the_cursor_is_no_repeat() -> None:
    assert clean_middle("g(x)", ")\n", ended=True) == "g(x)"
    assert clean_middle("x)\nprint(1)\ny = f(", ")\nprint(1)\ny = 2\n", ended=False) == "x"


def test_the_middle_ends_where_a_line_leaves_the_block() -> None:
    text = "for x in y:\n        a()\n\n        b()\n\n    c()\n"
    assert clean_middle(text, "", ended=True, min_indent=8) == "for x in y:\n        a()\n\n        b()"
    assert clean_middle(text, "", ended=True, min_indent=4) == text
    assert clean_middle("a\n    return x\nfoo()", "\n    return x\nfoo()\nbar()", ended=False, min_indent=4) == "a"


def test_a_single_line_is_the_first_that_says_something() -> None:
    assert clean_middle("a = 1\nb = 2\n", "", ended=True, single_line=True) == "a = 1"
    assert clean_middle("\n\n  a = 1\nb = 2\n", "", ended=True, single_line=True) == "\n\n  a = 1"


lines = st.lists(
    st.sampled_from(["    return total", "", "x = 1", "        y", ")", "def mean(values):", "  ", "第一行"]),
    max_size=7,
).map("\n".join)


@given(text=lines, suffix=lines, data=st.data())
def test_any_cutting_into_pieces_gives_the_same(text: str, suffix: str, data: st.DataObject) -> None:
    options = {
        "min_indent": data.draw(st.sampled_from([0, 4, 8])),
        "single_line": data.draw(st.booleans()),
    }
    ended = data.draw(st.booleans())
    stream = MiddleStream(suffix, **options)
    shown, start = "", 0
    while start < len(text):
        stop = data.draw(st.integers(start + 1, len(text)))
        shown += stream.push(text[start:stop])
        start = stop
    shown += stream.finish(ended=ended)
    assert shown == stream.text == clean_middle(text, suffix, ended=ended, **options)
    assert text.startswith(shown)


@pytest.mark.parametrize("ended", [False, True])
@given(text=lines)
def test_without_a_suffix_and_limits_nothing_is_lost(text: str, ended: bool) -> None:
    assert clean_middle(text, "", ended=ended).rstrip() == text.rstrip()
