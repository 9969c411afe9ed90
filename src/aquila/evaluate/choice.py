"""Multiple choice, in the templates of lm-eval 0.4.13: which of the answers a model finds likeliest.

Nothing is generated: each label (A to D, or no and yes) is scored as the continuation of the prompt, and the one with
the highest log-likelihood is the model's answer, the first among equals. Source of the templates:
EleutherAI/lm-evaluation-harness, lm_eval/tasks/{ceval,cmmlu,mmlu/default,super_glue/boolq}.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from aquila.config import read_yaml_text
from aquila.errors import ConfigError
from aquila.evaluate.choice_data import LETTERS, ChoiceSet, ChoiceTask, Question
from aquila.evaluate.sampling import Source
from aquila.evaluate.shots import first_shots, random_shots

_ABOUT = {  # before the examples, with what the subject is called
    "ceval": "以下是中国关于{}的单项选择题，请选出其中的正确答案。\n\n",
    "cmmlu": "以下是关于{}的单项选择题，请直接给出正确答案的选项。\n\n",
    "mmlu": "The following are multiple choice questions (with answers) about {}.\n\n",
}
_ANSWER = {"ceval": "答案：", "cmmlu": "答案：", "mmlu": "Answer:", "boolq": "Answer:"}
_QUANTILE = 1.959963984540054  # of the normal distribution, for 95 %
_CHUNK = 64  # questions that are scored in one go


@dataclass(frozen=True)
class Posed:
    """A question as a model is asked it. `task_id` is its place: `ceval/law/0`."""

    task_id: str
    question: Question
    prompt: str


@dataclass(frozen=True)
class Asked:
    """What a model thinks of a question's labels.

    Attributes:
        scores: log-likelihood of each label, nats.
    """

    task_id: str
    question: Question
    scores: tuple[float, ...]

    @property
    def chosen(self) -> int:
        """The likeliest label, the first among equals."""
        return self.scores.index(max(self.scores))

    @property
    def correct(self) -> bool:
        return self.chosen == self.question.answer


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its 95 % interval (Wilson 1927), and lm-eval's standard error."""

    num_questions: int
    num_correct: int

    @property
    def value(self) -> float:
        return self.num_correct / self.num_questions

    @property
    def stderr(self) -> float | None:
        """Of the mean, from the sample's own spread; None for a single question."""
        if self.num_questions < 2:
            return None
        return math.sqrt(self.value * (1 - self.value) / (self.num_questions - 1))

    @property
    def interval(self) -> tuple[float, float]:
        n, p, z = self.num_questions, self.value, _QUANTILE
        middle, reach = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        low, high = (middle - reach) / scale, (middle + reach) / scale
        return (0.0 if self.num_correct == 0 else low), (1.0 if self.num_correct == n else high)

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        figures = {"accuracy": self.value, "low": low, "high": high, "stderr": self.stderr}
        return {"num_questions": self.num_questions, "num_correct": self.num_correct, **figures}


def pose(choice_set: ChoiceSet, *, num_shots: int, limit: int | None = None) -> list[Posed]:
    """Every question with its prompt, subject after subject; of each subject at most `limit`.

    Raises:
        EvaluationError: there are fewer examples than asked for.
    """
    task, posed = choice_set.task, []
    for subject, questions in choice_set.questions.items():
        asked = questions[:limit]
        shots = _shots(choice_set, subject, asked, num_shots)
        for number, (question, examples) in enumerate(zip(asked, shots, strict=True)):
            solved = "".join(f"{_ask(task, each)} {task.labels[each.answer]}\n\n" for each in examples)
            task_id = "/".join(filter(None, (task.name, subject, str(number))))
            posed.append(Posed(task_id, question, describe(task, subject) + solved + _ask(task, question)))
    return posed


def ask(source: Source, posed: Sequence[Posed], labels: Sequence[str]) -> Iterator[tuple[Asked, bool]]:
    """Scores each question; also tells whether its prompt was too long and lost its beginning."""
    for start in range(0, len(posed), _CHUNK):
        chunk = posed[start : start + _CHUNK]
        found = iter(source.loglikelihood([(each.prompt, f" {label}") for each in chunk for label in labels]))
        for each in chunk:
            scored = [next(found) for _ in labels]
            cut = any(score.cut for score in scored)
            yield Asked(each.task_id, each.question, tuple(score.total for score in scored)), cut


def accuracies(asked: Sequence[Asked]) -> tuple[dict[str, Accuracy], Accuracy]:
    """By subject, and of all questions together (lm-eval's mean of a group, weighted by size)."""
    if not asked:
        raise ConfigError("no question was asked; raise --limit")
    counts: dict[str, list[int]] = {}
    for each in asked:
        entry = counts.setdefault(each.question.subject, [0, 0])
        entry[0] += 1
        entry[1] += each.correct
    by_subject = {subject: Accuracy(*entry) for subject, entry in counts.items()}
    return by_subject, Accuracy(len(asked), sum(each.correct for each in asked))


def describe(task: ChoiceTask, subject: str) -> str:
    """What stands before everything; a subject that is none of the benchmark's goes by the name it has."""
    about = _ABOUT.get(task.name, "")
    return about.format(subject_names(task).get(subject, subject.replace("_", " ")))


@cache
def subject_names(task: ChoiceTask) -> Mapping[str, str]:
    """What prompts call the subjects; those of MMLU are their files' names."""
    text = (files("aquila.evaluate") / "choice_subjects.yaml").read_text(encoding="utf-8")
    return read_yaml_text(text, where="choice_subjects.yaml").get(task.name, {})


def _shots(
    choice_set: ChoiceSet, subject: str, questions: Sequence[Question], num_shots: int
) -> Sequence[Sequence[Question]]:
    pool = choice_set.examples.get(subject, ())
    what = subject or choice_set.task.name
    if choice_set.task.random_examples:
        # one more is drawn and left out, as if the questions were among the examples: lm-eval does it for this task
        return random_shots(pool, questions, num_shots, what, same_pool=True)
    return [first_shots(pool, num_shots, what)] * len(questions)


def _ask(task: ChoiceTask, question: Question) -> str:
    choices = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, question.choices, strict=False))
    return f"{question.text}{choices}\n{_ANSWER[task.name]}"
