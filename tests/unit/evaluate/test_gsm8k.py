"""GSM8K: prompts, the two ways to read an answer, and what counts as right."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from aquila.errors import ConfigError, EvaluationError
from aquila.evaluate.gsm8k import counts, draw, extract, is_right, read_gsm8k
from aquila.evaluate.run_folder import RunFolder
from aquila.evaluate.sampling import Answer, Prompt, Scored, Settings

ROWS = [(f"What is {n}+1?", f"It is {n}+1=<<{n}+1={n + 1}>>{n + 1}.\n#### {n + 1}") for n in range(8)]


def write(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (" 3+4=7 apples.\n#### 7", "7", "7"),
        ("#### 1,200 and #### 3", "1,200", "3"),
        ("#### -5.", "-5.", "-5."),
        ("so it is $1,200.50 in all.", "[invalid]", "$1,200.50"),
        ("it is 7.", "[invalid]", "7."),
        ("5 then 8", "[invalid]", "8"),
        ("none ... at all", "[invalid]", "..."),
        ("no number", "[invalid]", "[invalid]"),
        ("", "[invalid]", "[invalid]"),
    ],
)
def test_a_number_is_read_in_two_ways(text: str, strict: str, flexible: str):
    assert extract(text, strict=True) == strict
    assert extract(text, strict=False) == flexible


@pytest.mark.parametrize(
    ("number", "answer", "right"),
    [
        ("1,200", "...\n#### 1200", True),
        ("$12.", "...\n#### 12", True),
        ("12.0", "...\n#### 12", False),
        ("[invalid]", "...\n#### 12", False),
        ("7", "5 and 7\n#### 5", False),
    ],
)
def test_thousands_dollars_and_a_full_stop_do_not_matter(number: str, answer: str, right: bool):
    assert is_right(number, answer) is right


def test_examples_come_from_the_training_file_beside_as_lm_eval_draws_them(tmp_path: Path):
    test, train = write(tmp_path / "test.jsonl", ROWS[:3]), write(tmp_path / "train.jsonl", ROWS)
    found = read_gsm8k(test, num_shots=2)
    generator = random.Random(1234)
    for prompt, (question, _) in zip(found.prompts, ROWS[:3], strict=True):
        shown = "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in generator.sample(ROWS, 2))
        assert prompt == f"{shown}Question: {question}\nAnswer:"
    assert read_gsm8k(test, num_shots=2, examples=train).prompts == found.prompts
    assert read_gsm8k(test, num_shots=0, limit=1).prompts == [f"Question: {ROWS[0][0]}\nAnswer:"]


def test_a_problem_is_never_its_own_example(tmp_path: Path):
    found = read_gsm8k(write(tmp_path / "only.jsonl", ROWS), num_shots=3)
    for problem, prompt in zip(found.problems, found.prompts, strict=True):
        assert prompt.count(problem.text) == 1
        assert prompt.count("Question: ") == 4
    with pytest.raises(EvaluationError, match="8 examples are asked for and 7 are there"):
        read_gsm8k(tmp_path / "only.jsonl", num_shots=8)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"is not JSON"),
        ("[]", "is a list, not an object with question and answer"),
        ('{"question": "q"}', "field answer is missing"),
        ('{"question": "q", "answer": "it is 5"}', r"does not end in `#### NUMBER`"),
    ],
)
def test_a_line_that_is_no_problem_is_named(tmp_path: Path, line: str, message: str):
    path = write(tmp_path / "test.jsonl", ROWS[:1])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(EvaluationError, match=rf"test\.jsonl:2: .*{message}"):
        read_gsm8k(path, num_shots=0)


class Answers:
    """A source that answers with what it was given, in turn."""

    name = "answers"

    def __init__(self, *texts: str) -> None:
        self._texts = texts

    def facts(self) -> dict[str, Any]:
        return {"name": self.name}

    def sample(self, prompts: Sequence[Prompt], settings: Settings) -> Iterator[Answer]:
        for prompt, text in zip(prompts, self._texts, strict=True):
            yield Answer(prompt.key, text, "stop", 1, 0.0)

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        raise ConfigError("not here")


def test_both_readings_are_counted_and_a_run_goes_on_with_what_it_lacks(tmp_path: Path):
    found = read_gsm8k(write(tmp_path / "test.jsonl", ROWS[:3]), num_shots=0)
    first = read_gsm8k(tmp_path / "test.jsonl", num_shots=0, limit=1)
    facts = {"bench": "gsm8k"}
    with RunFolder(tmp_path / "run", facts) as folder:
        draw(first, Answers(" #### 1"), Settings(), folder)
    with RunFolder(tmp_path / "run", facts) as folder:
        draw(found, Answers(" It is 2.", " #### 9"), Settings(), folder)
        assert counts(folder) == {"strict": [(1, 1), (1, 0), (1, 0)], "flexible": [(1, 1), (1, 1), (1, 0)]}
        assert folder.samples["gsm8k/1", 0]["flexible"] == "2."
