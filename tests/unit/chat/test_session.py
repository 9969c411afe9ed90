"""What a conversation remembers, sends and drops."""

import logging
from pathlib import Path

import pytest

from aquila.chat.session import ChatSession, Round
from aquila.errors import ConfigError, GenerationError
from aquila.generate.sampling import SamplingParams
from aquila.tokenizer.messages import Message
from aquila.tokenizer.templates import TEMPLATES
from scripted_model import ScriptedModel


def ask(session: ChatSession, text: str) -> str:
    return "".join(session.send(text))


def test_rounds_are_sent_with_the_next_message():
    model = ScriptedModel(" first", " second")
    session = ChatSession(model)
    assert [ask(session, "Q1"), ask(session, "Q2")] == ["first", "second"]
    expected = [Message("user", "Q1"), Message("assistant", "first"), Message("user", "Q2")]
    assert model.prompts[1] == TEMPLATES["aquila-chat"].render(expected)


def test_one_leading_space_is_stripped_and_no_more():
    model = ScriptedModel("  indented")
    assert model.tokenizer.decode(model.tokenizer.encode("  indented")[:1]) == " "  # and " in" is the next token
    assert ask(ChatSession(model), "Q") == " indented"


def test_templates_without_a_colon_keep_a_leading_space():
    assert ask(ChatSession(ScriptedModel(" spaced", template_name="aquila-v1")), "Q") == " spaced"


def test_the_answer_ends_at_a_stop_string_of_the_template():
    model = ScriptedModel(" yes###Human: and then?")
    session = ChatSession(model, params=SamplingParams(stop=("never",)))
    assert ask(session, "Q") == "yes"
    assert model.params[0].stop == ("never", "###", "</s>", "[UNK]")


def test_the_answer_ends_at_a_stop_token_of_the_template():
    model = ScriptedModel("yes<|startofpiece|>no", template_name="aquila-v2")
    assert ask(ChatSession(model), "Q") == "yes"


def test_a_checkpoints_own_template_is_honoured():
    model = ScriptedModel("fine<|im_end|>not this", template_name=None)
    model.tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    try:
        session = ChatSession(model, system="be brief")
        assert ask(session, "Q") == "fine"
    finally:
        model.tokenizer.chat_template = None  # the tokenizer is shared by all tests
    assert model.prompts == ["<|im_start|>be brief<|im_end|><|im_start|>Q<|im_end|>"]


@pytest.mark.parametrize(("kind", "template_name"), [("base", "aquila-chat"), ("code", None), (None, None)])
def test_a_base_model_warns_once_and_speaks_aquila_chat(kind, template_name, caplog):
    session = ChatSession(ScriptedModel("a", kind=kind, template_name=template_name))
    ask(session, "Q1")
    ask(session, "Q2")
    assert session.template.name == "aquila-chat"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "scripted is not a chat model" in caplog.text


def test_a_chat_model_or_a_named_template_does_not_warn(caplog):
    ChatSession(ScriptedModel("a"))
    ChatSession(ScriptedModel("a", kind="base", template_name=None), template="aquila")
    assert not caplog.records


def test_the_oldest_rounds_leave_a_full_context_and_the_message_stays(caplog):
    caplog.set_level(logging.INFO)
    model = ScriptedModel(" " + "answer " * 20, context=256)
    session = ChatSession(model, params=SamplingParams(max_new_tokens=60))
    for number in range(6):
        ask(session, f"question number {number}")
    assert "question number 0" not in model.prompts[-1]
    assert "question number 5" in model.prompts[-1]
    assert len(session.rounds) == 6
    longest = max(len(session.model.tokenizer.encode(prompt)) for prompt in model.prompts)
    assert longest <= 256 - 60
    assert "the context of 256 tokens is full: the oldest" in caplog.text


def test_a_message_longer_than_the_context_is_refused_with_both_numbers():
    model = ScriptedModel("a", context=256)
    session = ChatSession(model)
    with pytest.raises(GenerationError, match=r"takes \d{3,} tokens .* scripted has a context of 256"):
        session.send("word " * 300)
    assert session.rounds == []
    assert model.prompts == []


def test_a_message_may_leave_less_room_than_the_answer_asks_for():
    model = ScriptedModel(" a", context=256)
    session = ChatSession(model, params=SamplingParams(max_new_tokens=10_000))
    overhead = len(TEMPLATES["aquila-chat"].encode(model.tokenizer, [Message("user", "")]))
    assert ask(session, "8 " * ((250 - overhead) // 2)) == "a"


def test_an_empty_message_is_refused():
    with pytest.raises(ConfigError, match="the message is empty"):
        ChatSession(ScriptedModel("a")).send(" \n")


def test_closing_the_answer_cancels_the_model_and_keeps_what_was_said():
    model = ScriptedModel(" one two three four")
    session = ChatSession(model)
    answer = session.send("Q")
    heard = next(answer)
    answer.close()
    assert model.num_closed == 1
    assert session.rounds == [Round("Q", heard)]
    assert session.last_answer is not None
    assert session.last_answer.finish_reason == "cancelled"


def test_undo_takes_the_last_round_back():
    session = ChatSession(ScriptedModel(" a"))
    ask(session, "Q1")
    ask(session, "Q2")
    assert session.undo() == Round("Q2", "a")
    assert session.rounds == [Round("Q1", "a")]


def test_retry_replaces_the_last_answer_and_moves_the_seed():
    model = ScriptedModel(" a", " b", " c")
    session = ChatSession(model, params=SamplingParams(seed=7))
    ask(session, "Q")
    assert ["".join(session.retry()), "".join(session.retry())] == ["b", "c"]
    assert session.rounds == [Round("Q", "c")]
    assert model.prompts[0] == model.prompts[1] == model.prompts[2]
    assert [params.seed for params in model.params] == [7, 8, 9]


def test_a_retry_that_says_nothing_keeps_the_old_answer():
    session = ChatSession(ScriptedModel(" a", "###"))
    ask(session, "Q")
    assert list(session.retry()) == []
    assert session.rounds == [Round("Q", "a")]


def test_nothing_to_undo_or_retry_is_an_error():
    session = ChatSession(ScriptedModel("a"))
    for action in (session.undo, session.retry):
        with pytest.raises(ConfigError, match="there is no earlier message"):
            action()


def test_reset_keeps_the_system_message():
    session = ChatSession(ScriptedModel(" a"), system="I")
    ask(session, "Q")
    session.reset()
    assert session.messages == [Message("system", "I")]


def test_stats_count_prompt_and_answer():
    model = ScriptedModel(" some words here")
    session = ChatSession(model)
    ask(session, "Q")
    stats = session.last_answer
    assert stats is not None
    assert stats.prompt_tokens == len(model.tokenizer.encode(model.prompts[0]))
    assert stats.new_tokens == len(model.tokenizer.encode(" some words here"))
    assert stats.finish_reason == "stop"


def test_a_saved_conversation_goes_on(tmp_path: Path):
    session = ChatSession(ScriptedModel(" 你好"), system="简短")
    ask(session, "Q1")
    session.save(tmp_path / "talk.json")
    other = ChatSession(ScriptedModel(" b"))
    other.load(tmp_path / "talk.json")
    assert other.messages == session.messages
    assert ask(other, "Q2") == "b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", r"talk\.json: file: Invalid JSON"),
        (b"{}", r"talk\.json: model: Field required; choose a file that /save wrote"),
        (b'{"model": "m", "template": "t", "messages": [{"role": "tool", "content": ""}]}', r"messages\.0\.role"),
        (
            b'{"model": "m", "template": "t", "messages": [{"role": "user", "content": "Q"}]}',
            "the last message has no answer",
        ),
        (
            b'{"model": "m", "template": "t", "messages": [{"role": "assistant", "content": "A"}]}',
            r"talk\.json: messages\[0\]: role is 'assistant'",
        ),
    ],
)
def test_a_damaged_file_changes_nothing(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "talk.json"
    path.write_bytes(content)
    session = ChatSession(ScriptedModel(" a"))
    ask(session, "Q")
    with pytest.raises(ConfigError, match=message):
        session.load(path)
    assert session.rounds == [Round("Q", "a")]


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path):
    session = ChatSession(ScriptedModel(" a"))
    with pytest.raises(ConfigError, match=r"nothing\.json: cannot be read: No such file"):
        session.load(tmp_path / "nothing.json")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        session.save(tmp_path / "file" / "talk.json")
