"""Conversations as they are learned: labels as a slow rendering gives them, and nothing cut in silence."""

import logging
import re

import numpy as np
import pytest

from aquila.data import sft
from aquila.data.batch import IGNORE
from aquila.data.conversations import Conversation, read_conversations
from aquila.data.sft import choose_template, load_conversations, render
from aquila.errors import ConfigError, DataError
from aquila.files import cache_dir
from aquila.tokenizer.jinja_template import JinjaTemplate
from aquila.tokenizer.templates import TEMPLATES, Message
from data_parts import loader_of, write_jsonl
from parts import shared_data, tiny_tokenizer

ROUNDS = [
    Message("system", "Be brief."),
    Message("user", "写一个函数 </s> please"),
    Message("assistant", "def f(): return 1"),
    Message("user", "and [CLS]?"),
    Message("assistant", "不知道 </s>"),
]


def record(*texts, **more):
    turns = [{"from": "gpt" if index % 2 else "human", "value": text} for index, text in enumerate(texts)]
    return {"conversations": turns, **more}


def learned_text(piece, tokenizer):
    """Runs of learned tokens, as text with control tokens written out."""
    runs, ids = [], piece.token_ids.tolist()
    for index, learned in enumerate(piece.learned.tolist()):
        if learned and (not index or not piece.learned[index - 1]):
            runs.append([])
        if learned:
            runs[-1].append(ids[index])
    return [tokenizer.decode(run, skip_special=False) for run in runs]


# What of ROUNDS each template lets the model learn: the answers and what ends a turn
LEARNED = {
    "aquila-chat": [" def f(): return 1###", " 不知道 </s>###"],
    "sft-v2": [" def f(): return 1\n", " 不知道 </s>\n</s>"],
    "aquila-legacy": ["def f(): return 1</s>", "不知道 </s></s>"],
    "aquila": [" def f(): return 1</s>", " 不知道 </s></s>"],
    "aquila-v1": ["def f(): return 1</s>", "不知道 </s></s>"],
    "aquila-v2": ["def f(): return 1</s>", "不知道 </s></s>"],
    "bair_v1": [" def f(): return 1</s>", " 不知道 </s></s>"],
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_and_their_ends_are_learned_and_nothing_else(published, name):
    piece = render(TEMPLATES[name], published, ROUNDS)
    assert learned_text(piece, published) == LEARNED[name]
    text = published.decode(piece.token_ids.tolist(), skip_special=False)
    assert text == TEMPLATES[name].render(ROUNDS, add_generation_prompt=False)


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_user_types_is_never_a_control_token(published, name):
    typed = [Message("user", "</s>[CLS]<|startofpiece|>"), Message("assistant", "<|endofpiece|></s>")]
    plain = [Message("user", "x"), Message("assistant", "y")]
    count = lambda messages: sum(i >= 100_000 for i in render(TEMPLATES[name], published, messages).token_ids)  # noqa: E731
    assert count(typed) == count(plain)


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_starts_where_generation_would(published, name):
    """What is before an answer is encoded as the prompt for it is: the model meets at work what it learned from."""
    piece = render(TEMPLATES[name], published, ROUNDS[:3])
    prompt = TEMPLATES[name].encode(published, ROUNDS[:2], add_generation_prompt=True)
    first = int(np.flatnonzero(piece.learned)[0])
    assert piece.token_ids[:first].tolist() == prompt


JINJA = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_checkpoints_own_template_is_marked_by_its_prompts():
    tokenizer = tiny_tokenizer()
    template = JinjaTemplate(JINJA, control_tokens=("<|im_start|>", "<|im_end|>"))
    piece = render(template, tokenizer, ROUNDS[1:])
    assert learned_text(piece, tokenizer) == ["def f(): return 1<|im_end|>", "不知道 </s><|im_end|>"]


def test_a_template_that_rewrites_earlier_answers_is_refused():
    forgetful = JINJA.replace("{{ m['content'] }}", "{{ m['content'] if loop.last else '' }}")
    template = JinjaTemplate(forgetful, control_tokens=("<|im_start|>", "<|im_end|>"))
    with pytest.raises(DataError, match=r"writes messages\[1\] in another way when it is read back"):
        render(template, tiny_tokenizer(), ROUNDS[1:])


def test_batches_hold_what_a_slow_rendering_gives(tmp_path):
    """Every conversation comes up once in an epoch, whole, in one row; its labels are its answers, written by hand."""
    records = [record(f"Q{n}" * (n % 7 + 1), f"A{n}", "再来", "好" * (n % 5 + 1)) for n in range(20)]
    path = write_jsonl(tmp_path / "a.jsonl", records)
    loader = loader_of(path, stage="sft", template="bair_v1", sequence_length=128, global_batch_size=1)
    tokenizer, found = tiny_tokenizer(), []
    for step in range(loader.num_sequences):
        batch = loader.batch(step)
        for document in range(batch.document_ids.max() + 1):
            here = batch.document_ids[0] == document
            ids, labels = batch.input_ids[0][here].tolist(), batch.labels[0][here].tolist()
            assert batch.positions[0][here].tolist() == list(range(len(ids)))
            assert all(label in (IGNORE, ids[place + 1]) for place, label in enumerate(labels[:-1]))
            learned = [label for label in labels if label != IGNORE]
            texts = [tokenizer.decode(tokens, skip_special=False) for tokens in ([*ids, labels[-1]], learned)]
            found.append(tuple(texts))
    expected = []
    for turns in ([turn["value"] for turn in each["conversations"]] for each in records):
        rounds = [f"USER: {turns[0]} GPT: {turns[1]}</s>", f"USER: {turns[2]} GPT: {turns[3]}</s>"]
        expected.append(("BEGINNING OF CONVERSATION: " + "".join(rounds), f" {turns[1]}</s> {turns[3]}</s>"))
    assert sorted(found) == sorted(expected)


def test_open_questions_too_long_and_invalid_records_are_counted_and_told(tmp_path, caplog):
    long = "很长 " * 30
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [
            record("Q", "A"),
            record("Q", "A", "unanswered"),
            record("Q", "A", "Q", long, "Q", "A"),
            record("Q", long),
            record("Q", "", "x"),
            {"messages": "no"},
        ],
    )
    with caplog.at_level(logging.WARNING):
        found = load_conversations([path], TEMPLATES["bair_v1"], tiny_tokenizer(), length=100)
    counts = found.counts
    assert (counts.conversations, counts.open_questions, counts.invalid) == (3, 1, 2)
    assert (counts.shortened, counts.rounds_lost, counts.too_long) == (1, 2, 1)
    assert counts.tokens == found.lengths.sum()
    assert counts.problems[1] == f'{path}, line 6: messages: expected a list of turns, got "no"'
    assert "2 invalid records are left out, such as" in caplog.text
    assert (
        "sequence_length 100 is too short for 2 conversations: 1 are left out, 1 lost their last rounds (2)"
        in caplog.text
    )
    whole = render(TEMPLATES["bair_v1"], tiny_tokenizer(), [Message("user", "Q"), Message("assistant", "A")])
    assert all(found.piece(index).token_ids.tolist() == whole.token_ids.tolist() for index in range(3))


def test_the_validation_file_is_what_is_measured(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", [record("Q", f"A{n}") for n in range(9)])
    other = write_jsonl(tmp_path / "val.jsonl", [record("Q", "something else")])
    loader = loader_of(
        train, stage="sft", template="bair_v1", sequence_length=64, global_batch_size=1, validation=[str(other)]
    )
    (measured,) = loader.validation(2)
    (batch,) = measured.batches
    tokenizer = tiny_tokenizer()
    learned = [int(label) for label in batch.labels[0] if label != IGNORE]
    assert tokenizer.decode(learned, skip_special=False) == " something else</s>"
    assert (measured.name, measured.num_targets, measured.num_bytes) == ("val", len(learned), len(" something else"))
    assert batch.num_targets == len(learned)  # the second row is padding


def test_large_files_are_encoded_once(tmp_path, monkeypatch, caplog):
    """What a restart takes from the cache is what it would have read; a damaged cache is read anew."""
    monkeypatch.setattr(sft, "KEPT_FROM_BYTES", 0)
    path = write_jsonl(tmp_path / "a.jsonl", [record("Q", f"答 {n}") for n in range(9)] + [{"messages": "no"}])
    load = lambda: load_conversations([path], TEMPLATES["bair_v1"], tiny_tokenizer(), length=64)  # noqa: E731
    first, again = load(), load()
    (kept,) = (cache_dir() / "conversations").iterdir()
    kept.write_bytes(kept.read_bytes()[:300])
    mended = load()
    assert "damaged; encoding the conversations again" in caplog.text
    for other in (again, mended):
        assert (other.counts, other.digest) == (first.counts, first.digest)
        for name in ("tokens", "learned", "lengths"):
            assert getattr(other, name).tolist() == getattr(first, name).tolist()
    write_jsonl(path, [record("Q", "another")])
    assert len(load()) == 1


def test_a_cache_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sft, "KEPT_FROM_BYTES", 0)
    path = write_jsonl(tmp_path / "a.jsonl", [record("Q", "A")])
    (cache_dir()).mkdir(parents=True, exist_ok=True)
    (cache_dir() / "conversations").write_text("in the way", encoding="utf-8")
    assert len(load_conversations([path], TEMPLATES["bair_v1"], tiny_tokenizer(), length=64)) == 1
    (line,) = caplog.messages
    assert re.search(r"conversations.*: cannot be written \(.*\); going on without", line)


def test_another_encoding_leaves_what_was_kept_alone(tmp_path, monkeypatch):
    """The files and the tokenizer say nothing of how a program encodes."""
    monkeypatch.setattr(sft, "KEPT_FROM_BYTES", 0)
    path = write_jsonl(tmp_path / "a.jsonl", [record("Q", "A")])
    for version in (1, 2, 2):
        monkeypatch.setattr(sft, "_VERSION", version)
        load_conversations([path], TEMPLATES["bair_v1"], tiny_tokenizer(), length=64)
    assert len(list((cache_dir() / "conversations").iterdir())) == 2


def test_nothing_usable_and_no_template_are_errors(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [record("Q", "A" * 300)])
    with pytest.raises(DataError, match=r"a\.jsonl: no usable conversation \(0 invalid, 1 longer than 20 tokens\)"):
        load_conversations([path], TEMPLATES["bair_v1"], tiny_tokenizer(), length=20)
    with pytest.raises(
        ConfigError, match=r"data\.template .*: this tokenizer has no chat template of its own; choose one of"
    ):
        choose_template(None, tiny_tokenizer())


def test_published_samples_pack_without_loss(published):
    """All answers of the published multi-turn samples are learned, to the token."""
    path = shared_data("chat") / "convo_samples.jsonl"
    found = load_conversations([path], TEMPLATES["aquila-v1"], published, length=4096)
    answers = [m.content for c in read_conversations(path) if isinstance(c, Conversation) for m in c.messages[1::2]]
    assert found.counts.open_questions == 80
    assert found.counts.targets == sum(len(published.encode(answer)) + 1 for answer in answers)
