"""The special instruction specification: whole turns, streamed turns, and the published samples."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.chat.instructions import Call, Turn, escape, parse, render, turn_of
from aquila.chat.json_stream import JsonObjectStream
from aquila.chat.stream_parser import Arguments, CallBegin, CallEnd, InstructionParser, Text
from tool_parts import TABLE, cut, raw_turns, texts, turn

SAMPLES = Path(__file__).parents[4] / "shared/data/chat/sft_samples.jsonl"


@given(raw_turns)
def test_a_turn_that_was_rendered_parses_back(raw: tuple) -> None:
    assert parse(render(turn(raw), TABLE), TABLE) == turn(raw)


@given(texts, st.lists(st.integers(0, 400), max_size=8))
def test_streaming_in_any_pieces_equals_the_batch(text: str, places: list[int]) -> None:
    parser = InstructionParser(TABLE)
    events = [event for piece in cut(text, places) for event in parser.feed(piece)] + parser.finish()
    assert turn_of(events) == parse(text, TABLE)


@given(raw_turns)
def test_one_character_at_a_time_equals_the_batch(raw: tuple) -> None:
    text = render(turn(raw), TABLE)
    parser = InstructionParser(TABLE)
    events = [event for char in text for event in parser.feed(char)] + parser.finish()
    assert turn_of(events) == turn(raw)


@given(texts)
def test_text_without_a_tag_or_escape_is_left_as_it_is(text: str) -> None:
    plain = text.replace("#", "").replace("\\", "")
    assert parse(plain, TABLE) == Turn(plain)


@given(texts)
def test_an_escaped_text_has_no_calls(text: str) -> None:
    assert parse(escape(text)[0], TABLE) == Turn(text)


@given(texts, st.integers(0, 60))
def test_arguments_are_valid_json_whenever_the_stream_ends(text: str, end: int) -> None:
    """A client that is cut off in mid-call still gets a JSON object."""
    for call in ("text2image", "InstructFace", "get_weather"):
        parser = InstructionParser(TABLE)
        turn_of([*parser.feed(f'#{call}#\n{{"city": {text}'[:end]), *parser.finish()])


def test_events_come_as_early_as_they_can() -> None:
    parser = InstructionParser(TABLE, new_id=lambda: "call_1")
    assert parser.feed("Let me draw.\n#text2") == [Text("Let me draw.")]
    assert parser.feed("image#") == []
    assert parser.feed("\na red ") == [CallBegin(0, "call_1", "text2image"), Arguments(0, '{"prompt":"a red')]
    assert parser.feed('"bridge"\n') == [Arguments(0, ' \\"bridge\\"')]
    assert parser.finish() == [Arguments(0, '"}'), CallEnd(0)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#text2image#", Turn("", (Call("text2image", {}),))),
        ("#text2image#\n", Turn("", (Call("text2image", {}),))),
        ("#text2image# \r\n猫", Turn("", (Call("text2image", {"prompt": "猫"}),))),
        ("a #text2image#\nx", Turn("a #text2image#\nx")),
        ("  #text2image#\nx", Turn("  #text2image#\nx")),
        ("# text2image\nx", Turn("# text2image\nx")),
        ("#include <a>\n#define B\n", Turn("#include <a>\n#define B\n")),
        ("#unknown#\nx", Turn("#unknown#\nx")),
        ("#Text2Image#\nx", Turn("#Text2Image#\nx")),
        ("\\#text2image#\nx", Turn("#text2image#\nx")),
        ("```\n#text2image#\nx\n```\n", Turn("```\n#text2image#\nx\n```\n")),
        ("~~~\n```\n#text2image#\n~~~", Turn("~~~\n```\n#text2image#\n~~~")),
        ("a\n\n#text2image#\n\n b \n", Turn("a\n", (Call("text2image", {"prompt": "b"}),))),
        ('#text2image#\n{"prompt": "b", "seed": 3}', Turn("", (Call("text2image", {"prompt": "b", "seed": 3}),))),
        ('#text2image#\n{"a set": 1}', Turn("", (Call("text2image", {"prompt": '{"a set": 1}'}),))),
        ('#get_weather#\n```json\n{"city": "x"}\n```', Turn("", (Call("get_weather", {"city": "x"}),))),
        ("#get_weather#\nin Paris", Turn("", (Call("get_weather", {}),))),
        ('#get_weather#\n{"city": "x", "days": oops', Turn("", (Call("get_weather", {"city": "x"}),))),
        ('#get_weather#\n{"city": "x",}', Turn("", (Call("get_weather", {"city": "x"}),))),
        ('#get_weather#\n{"a": True, "b": "1\n2"}', Turn("", (Call("get_weather", {"a": True, "b": "1\n2"}),))),
        ('#get_weather#\n{"city": "x"} It rains.', Turn("", (Call("get_weather", {"city": "x"}),))),
        ("#InstructFace#\n a \n\nb\n", Turn("", (Call("InstructFace", {"instructions": ["a", "b"]}),))),
        (
            "x\n#text2image#\ncat\n#InstructFace#\n#tool__2nd#",
            Turn("x", (Call("text2image", {"prompt": "cat"}), Call("InstructFace"), Call("_2nd"))),
        ),
    ],
)
def test_what_is_a_call_and_what_is_text(text: str, expected: Turn) -> None:
    assert parse(text, TABLE) == expected


def test_the_published_samples_parse_as_published() -> None:
    if not SAMPLES.exists():
        pytest.skip(f"{SAMPLES} is not there")
    turns_of = [json.loads(line)["conversations"] for line in SAMPLES.read_text(encoding="utf-8").splitlines()]
    drawing, editing, plain = (conversation[1]["value"] for conversation in turns_of)
    read = parse(drawing, TABLE)
    preface, _, prompt = drawing.split("\n")
    assert read == Turn(preface, (Call("text2image", {"prompt": prompt}),))
    assert render(read, TABLE) == drawing
    edits = ["Change the girl's eye color to brown.", "Make the girl's skin color appear pink."]
    read = parse(editing, TABLE)
    assert read.calls == (Call("InstructFace", {"instructions": edits}),)
    assert render(read, TABLE) == editing
    assert parse(plain, TABLE) == Turn(plain)


@given(st.recursive(texts, lambda inner: st.dictionaries(texts, inner, max_size=3)), st.integers(0, 300))
def test_a_json_object_passes_through_and_any_start_of_it_closes(value: object, end: int) -> None:
    text = json.dumps({"value": value}, indent=1)
    whole, part = JsonObjectStream(), JsonObjectStream()
    assert json.loads(whole.feed(text) + whole.close()) == {"value": value}
    assert whole.done
    assert not whole.failed
    json.loads(part.feed(text[:end]) + part.close())


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", {}),
        ("[1]", {}),
        ('{"a": 1e999}', {}),
        ('{"a": 01}', {}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        ('{"a": "\\ud83d!"}', {"a": "\ufffd!"}),
        ('{"a": "\\ude00"}', {"a": "\ufffd"}),
        ('{"a": "\\d+"}', {"a": "\\d+"}),
        ('{"a": ' + "[" * 100, None),
        ('{"a": ' + "9" * 5000 + "}", {}),
        ('{"a": {"b": [1, 2', {"a": {"b": [1, 2]}}),
        ('{"a": 1} {"b": 2}', {"a": 1}),
    ],
)
def test_json_that_is_wrong_or_cut_keeps_what_was_understood(text: str, kept: object) -> None:
    for pieces in ([text], list(text)):
        stream = JsonObjectStream()
        value = json.loads("".join(stream.feed(piece) for piece in pieces) + stream.close())
        assert kept is None or value == kept
