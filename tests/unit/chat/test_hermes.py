"""Calls in `<tool_call>` JSON."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.chat.hermes import HermesParser, parse, render
from aquila.chat.instructions import Call, Turn, turn_of
from aquila.chat.stream_parser import Arguments, CallBegin, CallEnd, Text
from tool_parts import TABLE, cut, raw_turns, texts, turn

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
PARIS = Call("get_weather", {"city": "Paris"})


@given(raw_turns)
def test_a_turn_that_was_rendered_parses_back(raw: tuple) -> None:
    assert parse(render(turn(raw), TABLE), TABLE) == turn(raw)


@given(texts, st.lists(st.integers(0, 400), max_size=8))
def test_streaming_in_any_pieces_equals_the_batch(text: str, places: list[int]) -> None:
    parser = HermesParser(TABLE)
    events = [event for piece in cut(text, places) for event in parser.feed(piece)] + parser.finish()
    assert turn_of(events) == parse(text, TABLE)


@given(raw_turns, st.integers(0, 300))
def test_a_turn_cut_short_has_valid_arguments_in_any_pieces(raw: tuple, end: int) -> None:
    text = render(turn(raw), TABLE)[:end]
    parser = HermesParser(TABLE)
    events = [event for char in text for event in parser.feed(char)] + parser.finish()
    assert turn_of(events) == parse(text, TABLE)


def test_arguments_stream_once_the_name_is_known() -> None:
    parser = HermesParser(TABLE, new_id=lambda: "call_1")
    assert parser.feed("Let me see.\n<tool") == [Text("Let me see.")]
    assert parser.feed('_call>\n{"name": "get_weather", "argu') == []
    assert parser.feed('ments": {"city": "Par') == [CallBegin(0, "call_1", "get_weather"), Arguments(0, '{"city":"Par')]
    assert parser.feed('is"}}\n</tool_call') == [Arguments(0, 'is"}')]
    assert parser.feed(">\n") == [CallEnd(0)]
    assert parser.finish() == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CALL, Turn("", (PARIS,))),
        (f"a\n{CALL}\n{CALL}\nb", Turn("a\nb", (PARIS, PARIS))),
        (f"a {CALL}", Turn("a ", (PARIS,))),
        (CALL.removesuffix("\n</tool_call>"), Turn("", (PARIS,))),
        (CALL.replace("}}", "}}}"), Turn("", (PARIS,))),
        (f"```xml\n{CALL}\n```", Turn(f"```xml\n{CALL}\n```")),
        ("the tag `<tool_call>` opens", Turn("the tag `<tool_call>` opens")),
        (CALL.replace("get_weather", "nothing"), Turn(CALL.replace("get_weather", "nothing"))),
        ("<tool_call>{'name': 1}</tool_call>", Turn("<tool_call>{'name': 1}</tool_call>")),
        ("<tool_call>", Turn("<tool_call>")),
        ("\\<tool_call>", Turn("<tool_call>")),
        (
            '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call>',
            Turn("", (PARIS,)),
        ),
        ('<tool_call>{"name": "get_weather"}</tool_call>', Turn("", (Call("get_weather", {}),))),
        (
            '<tool_call>{"name": "get_weather", "arguments": {"city": "</tool_call>"}}</tool_call>!',
            Turn("!", (Call("get_weather", {"city": "</tool_call>"}),)),
        ),
        (
            '<tool_call>{"name": "get_weather", "arguments": {"city": oops}}</tool_call>!',
            Turn("!", (Call("get_weather", {}),)),
        ),
    ],
)
def test_what_is_a_call_and_what_is_text(text: str, expected: Turn) -> None:
    assert parse(text, TABLE) == expected
