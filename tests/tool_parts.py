"""Tools for tests, and strategies for turns that call them."""

from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from aquila.chat.instructions import Call, Turn
from aquila.chat.toolspec import ToolSpec, ToolTable

TEXT2IMAGE = ToolSpec(
    "text2image",
    {"en": "Draws a picture.", "zh": "画一张图。"},
    {
        "type": "object",
        "properties": {"prompt": {"type": "string"}, "seed": {"type": "integer"}},
        "required": ["prompt"],
    },
)
INSTRUCT_FACE = ToolSpec(
    "InstructFace",
    {"en": "Edits a face, one instruction a line."},
    {
        "type": "object",
        "properties": {"instructions": {"type": "array", "items": {"type": "string"}}, "image": {"type": "string"}},
        "required": ["instructions"],
    },
)
WEATHER = ToolSpec(
    "get_weather",
    {"en": "Tells the weather."},
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"],
    },
)
ODD = ToolSpec("_2nd", {"en": "Has a name that is no tag."})
TOOLS = (TEXT2IMAGE, INSTRUCT_FACE, WEATHER, ODD)
TABLE = ToolTable(TOOLS)

# Pieces that mean something to the grammars, mixed with pieces that do not.
_PIECES = st.sampled_from((
    "#text2image#", "#InstructFace#", "#get_weather#", "#tool__2nd#", "#other#", "\n", "\n\n", "\\", "#", "```", "~~~~",
    "```py\n", "````", "- ", " ", "\t", "\r", "{", "}", '{"prompt":', '{"', '"', ":", ",", "1", "null", "\\u00e9",
    "\\ud83d", "画一座桥", "word", "😀", "<tool_call>", "</tool_call>", '{"name": "text2image", "arguments": ', "[",
    "]", "<tool_call>\n", "<", "/", "`",
))  # fmt: skip
texts = st.lists(_PIECES | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=12).map("".join)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects: st.SearchStrategy[dict[str, Any]] = st.dictionaries(texts, _values, max_size=4)
_drawing = st.fixed_dictionaries({"prompt": texts}, optional={"seed": st.integers()})
_editing = st.fixed_dictionaries({"instructions": st.lists(texts, max_size=4)}, optional={"image": texts})
raw_calls = (
    st.tuples(st.just("text2image"), _drawing)
    | st.tuples(st.just("InstructFace"), _editing)
    | st.tuples(st.sampled_from(["get_weather", "_2nd"]), objects)
)
raw_turns = st.tuples(texts, st.lists(raw_calls, max_size=3))  # `turn` makes them: type checks may not run inside


def turn(raw: tuple[str, list[tuple[str, dict[str, Any]]]]) -> Turn:
    content, calls = raw
    return Turn(content, tuple(Call(name, arguments) for name, arguments in calls))


def cut(text: str, places: list[int]) -> list[str]:
    """The text in pieces, cut at the places (taken modulo its length)."""
    borders = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(borders)]
