"""What a run left behind, read for reports and comparisons.

Samples come back by task and number, whatever order they were finished in, so that what is made of a run does not
depend on how often it was stopped.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aquila.errors import EvaluationError
from aquila.evaluate.run_folder import read_facts, read_rows
from aquila.evaluate.sampling import Key
from aquila.evaluate.verdict import STATUSES

RUN_FILE = "run.json"
_WANTED = ("bench", "language", "model", "sampling", "data", "num_tasks")


@dataclass(frozen=True)
class RunResults:
    """One run.

    Attributes:
        settings: run.json.
        samples: lines of samples.jsonl, by task and number.
        verdicts: lines of verdicts.jsonl, in the same order.
    """

    path: Path
    settings: dict[str, Any]
    samples: dict[Key, dict[str, Any]]
    verdicts: dict[Key, dict[str, Any]]

    @property
    def label(self) -> str:
        """Model, language, temperature and perhaps prompt: what tells runs of a report apart."""
        words = [self.model_name, f"{self.settings['bench']} {self.settings['language']}"]
        temperature, style = self.settings["sampling"].get("temperature"), self.settings.get("prompt_style")
        words += [f"T {temperature:g}"] if temperature is not None else []
        return ", ".join([*words, f"prompt {style}"] if style not in (None, "bare") else words)

    @property
    def model_name(self) -> str:
        return str(self.settings["model"].get("name") or "unnamed")

    @cached_property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Judged samples and passed ones of each task that has any, in the order of the tasks' numbers."""
        counts: dict[str, tuple[int, int]] = {}
        for (task_id, _), verdict in self.verdicts.items():
            total, passed = counts.get(task_id, (0, 0))
            counts[task_id] = (total + 1, passed + (verdict["status"] == "passed"))
        return counts

    @cached_property
    def exact_counts(self) -> dict[str, tuple[int, int]]:
        """Answers and exact ones of each gap; empty where nothing was cut out."""
        counts: dict[str, tuple[int, int]] = {}
        for (task_id, _), row in self.samples.items():
            if "exact" in row:
                total, exact = counts.get(task_id, (0, 0))
                counts[task_id] = (total + 1, exact + bool(row["exact"]))
        return counts

    @property
    def harness_errors(self) -> list[dict[str, Any]]:
        return [verdict for verdict in self.verdicts.values() if verdict["status"] == "harness_error"]

    @property
    def num_wanted(self) -> int:
        """Samples that a finished run has."""
        return int(self.settings["num_tasks"]) * int(self.settings["sampling"].get("n") or 1)

    def require_verdicts(self) -> None:
        """`EvaluationError` where there can be no score: nothing is judged, or the harness failed on a sample."""
        if not self.verdicts:
            raise EvaluationError(f"{self.path}: no sample is judged yet, so there is no score; finish the run first")
        if errors := self.harness_errors:
            first = errors[0]
            raise EvaluationError(
                f"{self.path}: {len(errors)} of {len(self.verdicts)} samples have no verdict, first "
                f"{first['task_id']} sample {first['i']} ({first['detail'] or 'no reason given'}), so there is no "
                "pass@k; mend what is named and judge again"
            )


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The runs among `paths`: each is a run's directory, or a folder of such.

    Raises:
        EvaluationError: one is neither.
    """
    found: list[Path] = []
    for path in paths:
        if (path / RUN_FILE).is_file():
            found.append(path)
            continue
        inside = sorted(each.parent for each in path.glob(f"*/{RUN_FILE}")) if path.is_dir() else []
        if not inside:
            raise EvaluationError(f"{path}: has no {RUN_FILE}; give the directory of a run, or a folder of such")
        found += inside
    return list(dict.fromkeys(found))


def read_run(path: Path) -> RunResults:
    """Reads a run's directory, a run that still goes on too.

    Raises:
        EvaluationError: it is none, or a file of it is damaged, with the line.
    """
    settings = _read_settings(path)
    verdicts = read_rows(path, "verdicts.jsonl")
    for (task_id, index), row in verdicts.items():
        if row.get("status") not in STATUSES:
            raise EvaluationError(
                f"{path / 'verdicts.jsonl'}: status of {task_id} sample {index} is {row.get('status')!r}, none of "
                f"{', '.join(STATUSES)}"
            )
        row.setdefault("detail", "")
    return RunResults(path, settings, _sorted(read_rows(path, "samples.jsonl")), _sorted(verdicts))


def task_order(task_id: str) -> tuple[str | int, ...]:
    """Sorts `HumanEval/9` before `HumanEval/10`."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", task_id))


def _sorted(rows: dict[Key, dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    return dict(sorted(rows.items(), key=lambda item: (task_order(item[0][0]), item[0][1])))


def _read_settings(path: Path) -> dict[str, Any]:
    settings = read_facts(path)
    for name in _WANTED:
        if name not in settings:
            raise EvaluationError(f"{path / RUN_FILE}: field {name} is missing; the run cannot be read")
    for name in ("model", "sampling", "data"):
        if not isinstance(settings[name], dict):
            kind = type(settings[name]).__name__
            raise EvaluationError(f"{path / RUN_FILE}: field {name} is a {kind}, and must be an object")
    return settings
