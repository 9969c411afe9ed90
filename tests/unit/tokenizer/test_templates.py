"""The seven named templates, byte for byte, and what they make of a conversation."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.errors import ConfigError, TokenizerError
from aquila.tokenizer.jinja_template import JinjaTemplate
from aquila.tokenizer.load import load_tokenizer
from aquila.tokenizer.templates import TEMPLATES, Message, stop_token_ids, template_for
from aquila.tokenizer.tokenizer import Tokenizer
from aquila.tokenizer.train import train_tokenizer
from parts import shared_data
from scripted_model import SPECIALS, small_tokenizer, special_ids_in

S = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
SINGLE = [Message("user", "Q1")]
MULTI = [Message("user", "Q1"), Message("assistant", "A1"), Message("user", "Q2")]
FINISHED = MULTI[:2]
SYSTEM = Message("system", "I")

# name -> one round, several rounds, with a system message, a finished round
GOLDEN = {
    "aquila-chat": (
        f"{S}###Human: Q1###Assistant:",
        f"{S}###Human: Q1###Assistant: A1###Human: Q2###Assistant:",
        f"{S}###System: I###Human: Q1###Assistant:",
        f"{S}###Human: Q1###Assistant: A1###",
    ),
    "sft-v2": (
        f"[CLS]{S}\n\n### Human: Q1\n### Assistant:",
        f"[CLS]{S}\n\n### Human: Q1\n### Assistant: A1\n### Human: Q2\n### Assistant:",
        f"[CLS]{S}\n\n### System: I\n### Human: Q1\n### Assistant:",
        f"[CLS]{S}\n\n### Human: Q1\n### Assistant: A1\n</s>",
    ),
    "aquila-legacy": (
        f"{S}\n\n### Human: Q1\n### Assistant: ",
        f"{S}\n\n### Human: Q1\n### Assistant: A1</s>### Human: Q2\n### Assistant: ",
        "I\n\n### Human: Q1\n### Assistant: ",
        f"{S}\n\n### Human: Q1\n### Assistant: A1</s>",
    ),
    "aquila": (
        f"{S}###Human: Q1###Assistant:",
        f"{S}###Human: Q1###Assistant: A1</s>Human: Q2###Assistant:",
        "I###Human: Q1###Assistant:",
        f"{S}###Human: Q1###Assistant: A1</s>",
    ),
    "aquila-v1": (
        "<|startofpiece|>Q1<|endofpiece|>",
        "<|startofpiece|>Q1<|endofpiece|>A1</s><|startofpiece|>Q2<|endofpiece|>",
        "<|startofpiece|>I\n\nQ1<|endofpiece|>",
        "<|startofpiece|>Q1<|endofpiece|>A1</s>",
    ),
    "aquila-v2": (
        f"{S}\n\n<|startofpiece|>Q1<|endofpiece|>",
        f"{S}\n\n<|startofpiece|>Q1<|endofpiece|>A1</s><|startofpiece|>Q2<|endofpiece|>",
        "I\n\n<|startofpiece|>Q1<|endofpiece|>",
        f"{S}\n\n<|startofpiece|>Q1<|endofpiece|>A1</s>",
    ),
    "bair_v1": (
        "BEGINNING OF CONVERSATION: USER: Q1 GPT:",
        "BEGINNING OF CONVERSATION: USER: Q1 GPT: A1</s>USER: Q2 GPT:",
        "BEGINNING OF CONVERSATION: USER: I\n\nQ1 GPT:",
        "BEGINNING OF CONVERSATION: USER: Q1 GPT: A1</s>",
    ),
}
STOPS = {
    "aquila-chat": ("###", "</s>", "[UNK]"),
    "sft-v2": ("### Human", "</s>"),
    "aquila-legacy": ("</s>", "[UNK]"),
    "aquila": ("</s>", "[UNK]"),
    "aquila-v1": ("</s>", "<|endoftext|>"),
    "aquila-v2": ("</s>", "<|endoftext|>", "<|startofpiece|>", "<|endofpiece|>"),
    "bair_v1": ("</s>",),
}


def test_the_seven_templates_are_there():
    assert list(TEMPLATES) == list(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_rendered_prompts_equal_the_published_bytes(name: str):
    template = TEMPLATES[name]
    single, multi, with_system, finished = GOLDEN[name]
    assert template.render(SINGLE) == single
    assert template.render(MULTI) == multi
    assert template.render([SYSTEM, *SINGLE]) == with_system
    assert template.render(FINISHED, add_generation_prompt=False) == finished


@pytest.mark.parametrize("name", GOLDEN)
def test_stop_strings(name: str):
    assert TEMPLATES[name].stop == STOPS[name]


def test_answers_of_role_and_colon_templates_lose_their_leading_space():
    stripping = {name for name, template in TEMPLATES.items() if template.strip_leading_space}
    assert stripping == {"aquila-chat", "sft-v2", "aquila-legacy", "aquila", "bair_v1"}


def test_an_empty_answer_has_no_space_after_its_colon():
    messages = [Message("user", "Q1"), Message("assistant", ""), Message("user", "Q2")]
    rendered = TEMPLATES["aquila-chat"].render(messages)
    assert rendered == f"{S}###Human: Q1###Assistant:###Human: Q2###Assistant:"


def test_training_learns_answers_and_their_ends_only():
    messages = [SYSTEM, *MULTI, Message("assistant", "A2")]
    for name, template in TEMPLATES.items():
        pieces = template.pieces(messages, add_generation_prompt=False)
        trained = "".join(piece.text for piece in pieces if piece.train).replace(" ", "")
        end = template.assistant.end
        assert trained == f"A1{end}A2{end}{template.end}", name


@pytest.mark.parametrize("name", GOLDEN)
def test_token_ids_equal_those_of_the_whole_text(name: str):
    """Byte-pair merges cross the border between a role and its text."""
    tokenizer = small_tokenizer()
    template = TEMPLATES[name]
    messages = [SYSTEM, *MULTI]
    expected = tokenizer.encode(template.render(messages), allow_special=True)
    assert template.encode(tokenizer, messages) == expected


@pytest.mark.parametrize("name", GOLDEN)
@given(parts=st.lists(st.sampled_from([*SPECIALS, "<|", "|>", "</", "s>", "a", " ", "\n", "###"]), max_size=8))
def test_messages_never_become_control_tokens(name: str, parts: list[str]):
    tokenizer = small_tokenizer()
    template = TEMPLATES[name]
    plain = [Message("system", "x"), Message("user", "x"), Message("assistant", "x"), Message("user", "x")]
    hostile = [Message(message.role, "".join(parts) or "x") for message in plain]
    found = special_ids_in(tokenizer, template.encode(tokenizer, hostile))
    assert found == special_ids_in(tokenizer, template.encode(tokenizer, plain))


@pytest.fixture(scope="module")
def aquila_tokenizer() -> Tokenizer:
    return load_tokenizer(shared_data("aquila-tokenizer"))


def test_published_vectors(aquila_tokenizer: Tokenizer):
    vectors = json.loads((shared_data("aquila-tokenizer") / "vectors.json").read_text(encoding="utf-8"))
    question, answer = Message("user", "1+1="), Message("assistant", "2")
    capital = Message("user", "北京为什么是中国的首都？")
    v1 = TEMPLATES["aquila-chat"]
    assert v1.encode(aquila_tokenizer, [question]) == vectors["chat_v1_single"]["ids"]
    assert v1.encode(aquila_tokenizer, [question, answer, capital]) == vectors["chat_v1_multi"]["ids"]

    trained = TEMPLATES["sft-v2"].encode(aquila_tokenizer, [question, answer], add_generation_prompt=False)
    assert trained == [100006, *vectors["sft_train"]["ids"], 100007]

    prompt = TEMPLATES["aquila-v1"].encode(aquila_tokenizer, [question])
    theirs = vectors["aquila_v1"]["ids"]  # the reference code adds a space to any prompt
    assert prompt + aquila_tokenizer.encode(" ") == theirs


def test_stops_that_are_control_tokens_stop_by_id(aquila_tokenizer: Tokenizer):
    assert stop_token_ids(TEMPLATES["aquila-v2"], aquila_tokenizer) == (100007, 0, 100000, 100001)
    assert stop_token_ids(TEMPLATES["aquila-chat"], aquila_tokenizer) == (100007,)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ((), "has no user message"),
        (("system",), "has no user message"),
        (("assistant",), r"messages\[0\]: role is 'assistant', expected 'user'"),
        (("user", "user"), r"messages\[1\]: role is 'user', expected 'assistant'"),
        (("user", "system"), r"messages\[1\]: role is 'system', expected 'assistant'"),
        (("user", "assistant"), r"messages\[1\]: the assistant spoke last"),
    ],
)
def test_messages_that_do_not_take_turns_are_refused(roles, message: str):
    with pytest.raises(ConfigError, match=message):
        TEMPLATES["aquila-chat"].render([Message(role, "x") for role in roles])


def test_a_vocabulary_without_the_control_token_is_refused():
    tokenizer = train_tokenizer(["abc"], vocab_size=300, specials=("<|endoftext|>",))
    with pytest.raises(TokenizerError, match=r"control token '<\|startofpiece\|>'"):
        TEMPLATES["aquila-v1"].encode(tokenizer, SINGLE)


def test_the_nearest_template_is_suggested():
    with pytest.raises(ConfigError, match="'aquila-v3' is unknown; did you mean 'aquila-v"):
        template_for("aquila-v3", small_tokenizer())


def test_a_base_model_has_no_template():
    assert template_for(None, small_tokenizer()) is None


CONVERSATIONS = {
    "one question": [Message("user", "Q1")],
    "with an instruction": [Message("system", "Be brief."), Message("user", "Q1")],
    "two rounds": [Message("user", "Q1"), Message("assistant", "A1"), Message("user", '第二问\n"x"')],
    "instructed rounds": [
        Message("system", "I"),
        Message("user", "Q1"),
        Message("assistant", ""),
        Message("user", "Q2"),
    ],
}


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_jinja_form_renders_the_same_bytes(name, conversation):
    """Other programs read it from a GGUF or Hugging Face copy; the prompt must not differ in a space."""
    template = TEMPLATES[name]
    for messages, prompt in ((conversation, True), ([*conversation, Message("assistant", "A")], False)):
        jinja = JinjaTemplate(template.jinja()).render(messages, add_generation_prompt=prompt)
        assert jinja == template.render(messages, add_generation_prompt=prompt)
