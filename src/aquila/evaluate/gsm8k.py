"""GSM8K: word problems of school arithmetic, in lm-eval 0.4.13's template and with its two ways to read an answer.

strict      the number after `####`, as the solved examples end
flexible    the last number of the answer, wherever it stands

Source: Cobbe et al. 2021, arXiv:2110.14168; EleutherAI/lm-evaluation-harness, lm_eval/tasks/gsm8k/gsm8k.yaml.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquila.errors import EvaluationError
from aquila.evaluate.run_folder import RunFolder
from aquila.evaluate.samples_file import json_rows
from aquila.evaluate.sampling import Prompt, Settings, Source, sample_seed
from aquila.evaluate.shots import random_shots

STOPS = ("Question:", "</s>", "<|im_end|>")
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_INVALID = "[invalid]"  # what stands for an answer without a number
_IGNORED = tuple(re.compile(pattern) for pattern in (r",", r"\$", r"(?s).*#### ", r"\.$"))


@dataclass(frozen=True)
class Problem:
    """One problem; its answer ends in `#### number`."""

    question: str
    answer: str

    @property
    def text(self) -> str:
        return f"Question: {self.question}\nAnswer:"


@dataclass(frozen=True)
class Gsm8k:
    """Problems and, for each, its prompt with solved examples."""

    problems: Sequence[Problem]
    prompts: Sequence[str]
    path: Path
    sha256: str

    def task_ids(self) -> list[str]:
        return [f"gsm8k/{number}" for number in range(len(self.problems))]


def read_gsm8k(path: Path, *, num_shots: int, examples: Path | None = None, limit: int | None = None) -> Gsm8k:
    """Reads `test.jsonl`.

    Args:
        path: a line a problem: `question` and `answer`.
        num_shots: solved examples before each problem.
        examples: where they are drawn from; `train.jsonl` beside `path`, else the problems themselves.
        limit: only the first so many problems.

    Raises:
        EvaluationError: a file cannot be read, a line is no problem, or there are too few examples.
    """
    problems, digest = _read(path)
    beside = path.with_name(path.name.replace("test", "train"))
    examples = examples or (beside if num_shots and beside != path and beside.is_file() else None)
    pool = _read(examples)[0] if examples else problems
    asked = problems[:limit]
    shots = random_shots(pool, asked, num_shots, path.name, same_pool=examples is None)
    prompts = [
        "".join(f"{each.text} {each.answer}\n\n" for each in shown) + problem.text
        for problem, shown in zip(asked, shots, strict=True)
    ]
    return Gsm8k(asked, prompts, path, digest)


def extract(text: str, *, strict: bool) -> str:
    """The number of an answer as it stands there, or `[invalid]`."""
    if strict:
        found = _STRICT.search(text)
        return found[1].strip() if found else _INVALID
    matches = _FLEXIBLE.findall(text)
    return next((group for group in matches[-1] if group), _INVALID).strip() if matches else _INVALID


def is_right(extracted: str, answer: str) -> bool:
    """Whether a number is a problem's answer: thousands, dollars and a last full stop aside."""
    return _bare(extracted) == _bare(answer)


def draw(
    benchmark: Gsm8k,
    source: Source,
    settings: Settings,
    folder: RunFolder,
    on_answer: Callable[[bool], None] = lambda right: None,
) -> None:
    """Asks for what the folder lacks. The verdict is that of the strict reading; the flexible one stands beside it.

    Raises:
        AquilaError: the source answers no more. What there is stays.
    """
    tasks = dict(zip(benchmark.task_ids(), zip(benchmark.problems, benchmark.prompts, strict=True), strict=True))
    missing = [
        Prompt((task_id, i), prompt, seed=sample_seed(settings.seed, task_id, i))
        for task_id, (_, prompt) in tasks.items()
        for i in range(settings.n)
        if (task_id, i) not in folder.verdicts
    ]
    for answer in source.sample(missing, settings):
        task_id, index = answer.key
        problem, prompt = tasks[task_id]
        read = {name: extract(answer.text, strict=name == "strict") for name in ("strict", "flexible")}
        right = {name: is_right(number, problem.answer) for name, number in read.items()}
        sample = {
            "task_id": task_id,
            "i": index,
            "seed": sample_seed(settings.seed, task_id, index),
            "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
            "raw": answer.text,
            "completion": read["strict"],
            "flexible": read["flexible"],
            "finish_reason": answer.finish_reason,
            "num_tokens": answer.num_tokens,
            "seconds": answer.seconds,
        }
        status = "passed" if right["strict"] else "wrong"
        if answer.key not in folder.samples:
            folder.add_samples([sample])
        folder.add_verdicts([{"task_id": task_id, "i": index, "status": status, "flexible": right["flexible"]}])
        on_answer(right["flexible"])


def counts(folder: RunFolder) -> dict[str, list[tuple[int, int]]]:
    """Of both readings: answers and right ones of each problem."""
    found: dict[str, dict[str, list[int]]] = {"strict": {}, "flexible": {}}
    for (task_id, _), row in sorted(folder.verdicts.items()):
        for name, right in (("strict", row["status"] == "passed"), ("flexible", row["flexible"])):
            entry = found[name].setdefault(task_id, [0, 0])
            entry[0] += 1
            entry[1] += right
    return {name: [(total, right) for total, right in tasks.values()] for name, tasks in found.items()}


def _bare(text: str) -> str:
    for pattern in _IGNORED:
        text = pattern.sub("", text)
    return text.lower()


def _read(path: Path) -> tuple[list[Problem], str]:
    try:
        data = path.read_bytes()
        text = data.decode()
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}; give GSM8K's test.jsonl") from None
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    rows = json_rows(path, text, "question and answer")
    problems = [_problem(row, f"{path}:{number}") for number, row in rows]
    if not problems:
        raise EvaluationError(f"{path}: holds no problems; each line is an object with question and answer")
    return problems, hashlib.sha256(data).hexdigest()


def _problem(row: dict[str, Any], where: str) -> Problem:
    for field in ("question", "answer"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise EvaluationError(f"{where}: field {field} is missing or no text")
    if not _STRICT.search(row["answer"]):
        raise EvaluationError(f"{where}: the answer does not end in `#### NUMBER`; give GSM8K's own files")
    return Problem(row["question"], row["answer"])
