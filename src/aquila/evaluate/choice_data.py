"""Questions with choices, out of the files that C-Eval, CMMLU, MMLU and BoolQ are published in.

    C-Eval   val/law_val.csv      id,question,A,B,C,D,answer         CMMLU   test/law.csv     ,Question,A,B,C,D,Answer
    MMLU     test/law_test.csv    question, four choices, letter     BoolQ   dev.jsonl        question, passage, answer

MMLU's files have no header. All may be JSON lines with the same names instead, a `choices` list for A to D, and a
number for the letter, as on the Hugging Face hub; `subject` there takes the place of the file's name. What a file is
for (questions, or examples to show first) stands in its name or its folder's: dev, val, test, train.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquila.config import suggest
from aquila.errors import ConfigError, EvaluationError
from aquila.evaluate.samples_file import json_rows

LETTERS = ("A", "B", "C", "D")
_SPLITS = {"dev": "dev", "val": "val", "valid": "val", "validation": "val", "test": "test", "train": "train"}
_STEM = re.compile(rf"(?:(.*)[_-])?({'|'.join(_SPLITS)})")
_SUFFIXES = (".csv", ".jsonl")


@dataclass(frozen=True)
class ChoiceTask:
    """A benchmark of multiple choice.

    Attributes:
        questions: splits that are asked, the first that is there.
        examples: the split that examples are taken from.
        labels: what is scored.
        random_examples: drawn for each question, instead of the first ones for all.
    """

    name: str
    questions: tuple[str, ...]
    examples: str
    labels: tuple[str, ...] = LETTERS
    random_examples: bool = False


TASKS: Mapping[str, ChoiceTask] = {
    task.name: task
    for task in (
        ChoiceTask("ceval", ("val", "test"), "dev"),
        ChoiceTask("cmmlu", ("test",), "dev"),
        ChoiceTask("mmlu", ("test",), "dev"),
        ChoiceTask("boolq", ("val", "dev"), "train", labels=("no", "yes"), random_examples=True),
    )
}


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        subject: which part of the benchmark; empty where it has none.
        text: the question; in BoolQ with the passage before it.
        choices: what the letters stand for; empty where labels say it themselves.
        answer: which label is right, from 0.
        where: its file and line.
    """

    subject: str
    text: str
    choices: tuple[str, ...]
    answer: int
    where: str


@dataclass(frozen=True)
class ChoiceSet:
    """Questions by subject in the order of files and lines, and examples by subject."""

    task: ChoiceTask
    questions: Mapping[str, Sequence[Question]]
    examples: Mapping[str, Sequence[Question]]
    digests: Mapping[str, str]  # sha256 of each file that questions or examples come from, by its name


def find_task(name: str) -> ChoiceTask:
    if name not in TASKS:
        raise ConfigError(f"--task {name!r} is unknown{suggest(name, TASKS)}; there are {', '.join(TASKS)}")
    return TASKS[name]


def read_choice_set(
    task: ChoiceTask,
    data: Sequence[Path],
    *,
    examples: Sequence[Path] = (),
    split: str | None = None,
    subjects: Sequence[str] = (),
) -> ChoiceSet:
    """Reads the files of a benchmark.

    Args:
        task: the benchmark.
        data: files, or folders of them. A file that is given and whose name does not say what it is for holds
            questions; in a folder it is left out.
        examples: files whose questions are the examples, whatever their names say.
        split: which one is asked, instead of the usual one.
        subjects: only these; all where it is empty.

    Raises:
        EvaluationError: a file cannot be read or a line cannot be used, or there are no questions.
    """
    found: dict[str, list[tuple[Path, list[Question]]]] = {}
    digests: dict[str, str] = {}
    for path in _files(data):
        subject, part = _name_of(path)
        if part is None and path not in data:
            continue  # MMLU's auxiliary_train, for one
        found.setdefault(part or "given", []).append((path, list(_read(task, path, subject, digests, part))))
    asked = [split] if split else ["given", *task.questions]
    chosen = next((part for part in asked if any(questions for _, questions in found.get(part, []))), None)
    if chosen is None:
        there = ", ".join(f"{part} ({len(files)} files)" for part, files in found.items()) or "none"
        raise EvaluationError(
            f"{', '.join(map(str, data))}: no questions of the split {' or '.join(asked[1:] or asked)}; splits that "
            f"are there: {there}. Name one by --split, or give a file of questions"
        )
    shown = [item for _, items in found.get(task.examples, []) for item in items] if chosen != task.examples else []
    if examples:
        shown = [item for path in _files(examples) for item in _read(task, path, _name_of(path)[0], digests, None)]
    questions = _by_subject([item for _, items in found[chosen] for item in items])
    for name in subjects:
        if name not in questions:
            raise ConfigError(f"--subjects: there is no {name!r}{suggest(name, questions)}")
    kept = {name: items for name, items in questions.items() if not subjects or name in subjects}
    return ChoiceSet(task, kept, _by_subject(shown), digests)


def _by_subject(questions: Sequence[Question]) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.subject, []).append(question)
    return found


def _files(paths: Sequence[Path]) -> list[Path]:
    files = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.suffix in _SUFFIXES and each.is_file())
            if not inside:
                raise EvaluationError(f"{path}: has no .csv or .jsonl file; give the folder of a benchmark's files")
            files += inside
        elif not path.exists():
            raise EvaluationError(f"{path}: no such file or folder; give a benchmark's files, or the folder of them")
        elif path.suffix not in _SUFFIXES:
            raise EvaluationError(f"{path}: is no .csv or .jsonl file; give a benchmark's files, unpacked")
        else:
            files.append(path)
    return files


def _name_of(path: Path) -> tuple[str, str | None]:
    """Subject and split that a file's name and folder tell."""
    match = _STEM.fullmatch(path.stem)
    if match:
        return match[1] or "", _SPLITS[match[2]]
    return path.stem, _SPLITS.get(path.parent.name)


def _read(task: ChoiceTask, path: Path, subject: str, digests: dict[str, str], split: str | None) -> Iterator[Question]:
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}; give a benchmark's file") from None
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    digests[f"{path.parent.name}/{path.name}"] = hashlib.sha256(data).hexdigest()
    rows = _csv_rows(path, text) if path.suffix == ".csv" else json_rows(path, text, "a question")
    own = "" if task.name == "boolq" else subject
    for number, row in rows:
        fields = {str(key).strip().lower(): value for key, value in row.items()}
        if split == "test" and _answer_field(fields) is None:
            return  # answers that were never published
        yield _question(task, fields, own, f"{path}:{number}")


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    header: list[str] | None = None
    for row in reader:
        if not row:
            continue
        if header is None:
            names = [name.strip().lower() for name in row]
            if {"question", "a", "b", "c", "d"} <= set(names):
                header = names
                continue
            header = ["question", "a", "b", "c", "d", "answer"]  # of MMLU's files, which have none
        if len(row) != len(header):
            raise EvaluationError(f"{path}:{reader.line_num}: has {len(row)} fields, not {len(header)}: {header}")
        yield reader.line_num, dict(zip(header, row, strict=True))


def _question(task: ChoiceTask, row: Mapping[str, Any], subject: str, where: str) -> Question:
    named = row.get("subject")
    subject = named if isinstance(named, str) and named and task.name != "boolq" else subject
    if task.name == "boolq":
        passage, question = _text(row, "passage", where), _text(row, "question", where)
        return Question("", f"{passage}\nQuestion: {question}?", (), _answer(task, row, where), where)
    choices = row.get("choices", [row.get(letter.lower()) for letter in LETTERS])
    if not isinstance(choices, list) or len(choices) != len(LETTERS) or any(each is None for each in choices):
        raise EvaluationError(f"{where}: needs four choices, in fields A to D or in a list `choices`")
    texts = tuple(str(each) for each in choices)
    if not subject:
        raise EvaluationError(
            f"{where}: neither the file's name nor a field `subject` says which subject it is; name the file SUBJECT_"
            f"{task.questions[0]}{Path(where.rpartition(':')[0]).suffix}"
        )
    return Question(subject, _text(row, "question", where).strip(), texts, _answer(task, row, where), where)


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise EvaluationError(f"{where}: field {field} is {value!r}, and must be a text")
    return value


def _answer_field(row: Mapping[str, Any]) -> Any:
    value = row.get("answer", row.get("label"))
    return None if value is None or value == "" or (value == -1 and not isinstance(value, bool)) else value


def _answer(task: ChoiceTask, row: Mapping[str, Any], where: str) -> int:
    value = _answer_field(row)
    if value is None:
        hint = " (those of C-Eval's test files were never published; ask val)" if task.name == "ceval" else ""
        raise EvaluationError(f"{where}: has no answer{hint}")
    named = {label.lower(): place for place, label in enumerate(task.labels)}
    if task.name == "boolq":
        named |= {"false": 0, "true": 1}
    place = named.get(str(value).strip().lower(), value)
    if isinstance(place, str) and place.strip().isdecimal():
        place = int(place)
    if not isinstance(place, int) or not 0 <= place < len(task.labels):
        raise EvaluationError(f"{where}: the answer is {value!r}, and must be one of {', '.join(task.labels)}")
    return int(place)
