"""Conversations in the forms people keep them in, and faults named by line and field."""

import gzip
import json

import pytest

from aquila.data.conversations import (
    Conversation,
    Problem,
    conversation_files,
    parse_conversation,
    read_conversations,
)
from aquila.errors import ConfigError
from aquila.tokenizer.messages import Message
from data_parts import write_jsonl
from parts import shared_data

ASKED, ANSWERED = {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}
TURNS = (Message("user", "Q"), Message("assistant", "A"))
SYSTEM = Message("system", "S")


@pytest.mark.parametrize(
    ("record", "form", "messages"),
    [
        ({"id": "1", "conversations": [ASKED, ANSWERED], "instruction": ""}, "seed", TURNS),
        ({"conversations": [ASKED, ANSWERED], "instruction": "S"}, "seed", (SYSTEM, *TURNS)),
        ({"conversations": [ASKED, ANSWERED]}, "sharegpt", TURNS),
        ({"system": "S", "conversations": [ASKED, ANSWERED]}, "sharegpt", (SYSTEM, *TURNS)),
        ({"conversations": [{"from": "system", "value": "S"}, ASKED, ANSWERED]}, "sharegpt", (SYSTEM, *TURNS)),
        ({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}, "openai", TURNS),
        (
            {
                "messages": [
                    {"role": "developer", "content": "S"},
                    {"role": "user", "content": [{"type": "text", "text": "Q"}]},
                    {"role": "assistant", "content": "A", "weight": 1},
                ]
            },
            "openai",
            (SYSTEM, *TURNS),
        ),
        ({"instruction": "Q", "input": "", "output": "A"}, "alpaca", TURNS),
        (
            {"instruction": "Q", "input": "I", "output": "A", "system": "S", "history": [["Q", "A"]]},
            "alpaca",
            (SYSTEM, *TURNS, Message("user", "Q\nI"), Message("assistant", "A")),
        ),
    ],
)
def test_each_form_gives_the_same_messages(record, form, messages):
    assert parse_conversation(record, "f, line 1") == Conversation(messages, "f, line 1", form)


def test_the_published_samples_are_all_read():
    folder = shared_data("chat")
    counts = {path.name: list(read_conversations(path)) for path in conversation_files([folder])}
    assert {name: len(records) for name, records in counts.items()} == {
        "convo_samples.jsonl": 100,
        "sft_samples.jsonl": 3,
    }
    assert all(isinstance(record, Conversation) for records in counts.values() for record in records)
    open_ends = sum(record.messages[-1].role == "user" for record in counts["convo_samples.jsonl"])
    assert open_ends == 80


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ([1], "a JSON list, expected an object"),
        ({"text": "x"}, "has text; expected messages, conversations, or instruction and output"),
        ({"conversations": []}, "conversations: expected a list of turns, got []"),
        ({"conversations": [3]}, "conversations[0]: expected an object, got 3"),
        ({"conversations": [{"from": "human"}]}, "conversations[0].value: is missing"),
        ({"conversations": [{"from": "tool", "value": ""}]}, 'conversations[0].from: "tool" is none of human, user, '),
        ({"conversations": [{"from": "\ud800", "value": ""}]}, 'conversations[0].from: "\\ud800" is none of human, '),
        ({"\udfff": 1, "y" * 50: 2}, f"has \\udfff, {'y' * 37}...; expected messages, "),
        ({"conversations": [{"from": "human", "value": 5}]}, "conversations[0].value: expected a text, got 5"),
        ({"conversations": [ANSWERED]}, "conversations[0]: the assistant speaks, but it is the user's turn"),
        ({"conversations": [ASKED, ASKED]}, "conversations[1]: the user speaks, but it is the assistant's turn"),
        ({"conversations": [ASKED]}, "the assistant never speaks: there is nothing to learn"),
        (
            {"conversations": [ASKED, {"from": "gpt", "value": ""}]},
            "conversations[1]: the assistant's message is empty",
        ),
        (
            {"conversations": [ASKED, {"from": "gpt", "value": "\ud800"}]},
            "conversations[1].value: half a surrogate pair",
        ),
        (
            {"instruction": "S", "conversations": [{"from": "system", "value": "S"}, ASKED, ANSWERED]},
            "conversations[0]: a second system message",
        ),
        (
            {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": None, "tool_calls": [1]}]},
            "messages[1].tool_calls: calls of tools are not supported",
        ),
        (
            {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "weight": 0}]},
            "messages[1].weight: a turn that is not learned is not supported",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages[0].content[0]: expected a part of type",
        ),
        ({"instruction": "Q", "output": 3}, "output: expected a text, got 3"),
        ({"instruction": "Q", "output": "A", "history": [["Q"]]}, "history[0]: expected a question and an answer"),
    ],
)
def test_a_fault_names_line_and_field(record, fault):
    found = parse_conversation(record, "f.jsonl, line 7")
    assert isinstance(found, Problem)
    assert str(found).startswith(f"f.jsonl, line 7: {fault}")
    assert str(found).encode()  # as a terminal gets it


def test_faults_of_lines_stop_no_other_line(tmp_path):
    good = json.dumps({"conversations": [ASKED, ANSWERED]}).encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\n{oops\n\xff\n" + good)
    records = list(read_conversations(path))
    assert [isinstance(record, Conversation) for record in records] == [True, False, False, True]
    assert str(records[1]).startswith(f"{path}, line 3: not valid JSON: ")
    assert str(records[2]) == f"{path}, line 4: byte 0 (0xff) is not UTF-8"
    assert records[3].where == f"{path}, line 5"


def test_lists_and_packed_lines_are_read_like_lines(tmp_path):
    records = [{"conversations": [ASKED, ANSWERED]}, {"x": 1}]
    lines = write_jsonl(tmp_path / "a.jsonl", records)
    (tmp_path / "a.json").write_text(json.dumps(records), encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    assert conversation_files([tmp_path]) == [tmp_path / "a.json", tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"]
    for path in conversation_files([tmp_path]):
        first, second = read_conversations(path)
        assert first.messages == TURNS
        assert str(second).startswith(f"{path}, {'item' if path.suffix == '.json' else 'line'} 2: has x;")


def test_what_is_no_file_of_conversations_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"this folder has no \.jsonl or \.json file"):
        conversation_files([tmp_path])
    with pytest.raises(ConfigError, match="absent: no such file or folder"):
        conversation_files([tmp_path / "absent"])
    (tmp_path / "a.json").write_text('{"conversations": []}', encoding="utf-8")
    assert "holds a JSON dict; expected a list" in str(next(read_conversations(tmp_path / "a.json")))
