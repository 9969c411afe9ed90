"""Edits of open documents, in UTF-16 positions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.cli.lsp_document import Document

TEXT = "def 你好(x):\n    s = '😀a'\r\n    return s\n"


@pytest.mark.parametrize(
    ("line", "character", "before"),
    [
        (0, 0, ""),
        (0, 6, "def 你好"),
        (1, 9, "def 你好(x):\n    s = '"),
        (1, 11, "def 你好(x):\n    s = '😀"),
        (1, 10, "def 你好(x):\n    s = '"),  # within a pair of units: before it
        (1, 99, "def 你好(x):\n    s = '😀a'"),  # never into the line's end
        (2, 4, "def 你好(x):\n    s = '😀a'\r\n    "),
        (3, 0, TEXT),
        (99, 0, TEXT),
    ],
)
def test_a_position_counts_utf_16_units(line: int, character: int, before: str) -> None:
    document = Document("file:///a.py", TEXT)
    assert TEXT[: document.offset({"line": line, "character": character})] == before


def test_a_cursor_has_its_line_apart() -> None:
    place = {"line": 1, "character": 11}
    cursor = Document("file:///src/a.py", TEXT).cursor({"start": place, "end": place}, "")
    assert (cursor.prefix, cursor.line, cursor.suffix) == ("def 你好(x):\n", "    s = '😀", "a'\r\n    return s\n")
    assert cursor.filename == "a.py"


def test_a_word_in_place_of_a_span_counts_as_typed() -> None:
    span = {"start": {"line": 1, "character": 9}, "end": {"line": 1, "character": 12}}
    cursor = Document("file:///a.py", TEXT).cursor(span, "你")
    assert (cursor.prefix, cursor.line, cursor.suffix) == ("def 你好(x):\n", "    s = '你", "'\r\n    return s\n")


def test_a_change_without_a_range_is_the_whole_text() -> None:
    document = Document("file:///a.py", TEXT)
    document.change([{"text": "new"}], 2)
    assert (document.text, document.version) == ("new", 2)


texts = st.text(alphabet="ab \n你😀", max_size=30)


def position(text: str, index: int) -> dict[str, int]:
    """The position of an index, by the protocol's own definition."""
    before = text[:index]
    line = before.rpartition("\n")[2]
    return {"line": before.count("\n"), "character": len(line.encode("utf-16-le")) // 2}


@given(text=texts, data=st.data())
def test_edits_do_what_slices_do(text: str, data: st.DataObject) -> None:
    document = Document("file:///a", text)
    for version in range(3):
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, len(text)))
        new = data.draw(texts)
        span = {"start": position(text, start), "end": position(text, stop)}
        document.change([{"range": span, "text": new}], version)
        text = text[:start] + new + text[stop:]
        assert document.text == text
