"""Fill in the middle: HumanEval's own solutions with a part cut out, which the model is to write.

single-line   each line that is not blank, one at a time
multi-line    some lines in a row, two or more
random-span   what lies between two characters

Which lines and characters is drawn from a seed, the same everywhere. The answer is judged twice: whether it is what was
cut out, and whether the whole then passes the task's tests. Source of the three kinds: Bavarian et al. 2022,
arXiv:2207.14255, section 4.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from aquila.config import suggest
from aquila.errors import ConfigError
from aquila.evaluate.judge.pool import Program, judge_programs
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.run_folder import RunFolder
from aquila.evaluate.sampling import Answer, Order, Prompt, Settings, Source, sample_seed
from aquila.evaluate.tasks import Benchmark, Task, reference_solution
from aquila.evaluate.verdict import Verdict
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.toolchains import find_toolchain

Kind = Literal["single-line", "multi-line", "random-span"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_PER_TASK = 10  # spans of the two kinds that there could be very many of
_MAX_TRIES = 1000  # to draw a span that was not there yet


@dataclass(frozen=True)
class Span:
    """A part of a solution, and what stands around it: the prompt and the solution up to it, the rest behind it."""

    task_id: str  # `HumanEval/0/3`
    task: Task
    before: str
    middle: str
    after: str

    def program(self, answer: str) -> Program:
        return Program(self.task.task_id, self.before + answer + self.after)


@dataclass(frozen=True)
class FimRun:
    """What one folder holds.

    Attributes:
        num_tasks: spans of the first so many tasks.
        per_task: spans of a task at most; all lines, and ten of the other kinds, when None.
    """

    benchmark: Benchmark
    kind: Kind
    order: Order
    settings: Settings
    isolation: Isolation
    rules: Rules
    num_tasks: int | None = None
    per_task: int | None = None

    def spans(self) -> list[Span]:
        tasks = list(self.benchmark.tasks.values())[: self.num_tasks]
        seed = self.settings.seed
        return [span for task in tasks for span in spans_of(task, self.kind, per_task=self.per_task, seed=seed)]

    def facts(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """What goes into run.json."""
        return {
            "bench": "fim",
            "language": self.benchmark.language,
            "model": dict(model),
            "prompt_style": f"{self.kind}, {self.order}",
            "preset": None,
            "fim": {"kind": self.kind, "order": self.order, "per_task": self.per_task},
            "sampling": self.settings.to_json(),
            "judge": self.rules.to_json(),
            "isolation": self.isolation.mode,
            "toolchain": find_toolchain(self.benchmark.language).version(),
            "data": {"file": self.benchmark.path.name, "sha256": self.benchmark.sha256},
            "num_tasks": len(self.spans()),
        }


def find_kind(name: str) -> Kind:
    found = next((kind for kind in KINDS if kind == name), None)
    if found is None:
        raise ConfigError(f"--kinds: {name!r} is unknown{suggest(name, KINDS)}; there are {', '.join(KINDS)}")
    return found


def spans_of(task: Task, kind: Kind, *, per_task: int | None = None, seed: int = 0) -> list[Span]:
    """Spans of a task's solution in the order in which they stand there."""
    solution = reference_solution(task)
    generator = random.Random(f"{seed}\0{kind}\0{task.task_id}")
    if kind == "random-span":
        cuts = _random_cuts(solution, per_task or _PER_TASK, generator)
    else:
        lines = _line_cuts(solution)
        if kind == "single-line":
            there, count = [(start, stop) for start, stop in lines], per_task or len(lines)
        else:
            there = [(a, d) for place, (a, _) in enumerate(lines) for _, d in lines[place + 1 :]]
            count = per_task or _PER_TASK
        cuts = there if count >= len(there) else sorted(generator.sample(there, count))
    return [
        Span(f"{task.task_id}/{number}", task, task.prompt + solution[:start], solution[start:stop], solution[stop:])
        for number, (start, stop) in enumerate(cuts)
    ]


def read_middle(text: str, kind: Kind) -> str:
    """What of an answer is put into the gap: of a line's answer the first line."""
    return text.partition("\n")[0] if kind == "single-line" else text


def is_exact(answer: str, span: Span) -> bool:
    """Whether it is what was cut out, white space at the end aside."""
    return answer.rstrip() == span.middle.rstrip()


def draw(
    run: FimRun, source: Source, folder: RunFolder, on_answer: Callable[[bool], None] = lambda exact: None
) -> None:
    """Asks for every middle that the folder lacks.

    Raises:
        ConfigError: the model has no fill-in-the-middle tokens.
        AquilaError: the source answers no more. What there is stays.
    """
    spans = {span.task_id: span for span in run.spans()}
    missing = [
        Prompt(
            (span.task_id, i),
            span.before,
            seed=sample_seed(run.settings.seed, span.task_id, i),
            suffix=span.after,
            order=run.order,
            is_complete=(lambda text: "\n" in text) if run.kind == "single-line" else None,
        )
        for span in spans.values()
        for i in range(run.settings.n)
        if (span.task_id, i) not in folder.samples
    ]
    for answer in source.sample(missing, run.settings):
        span = spans[answer.key[0]]
        middle = read_middle(answer.text, run.kind)
        folder.add_samples([_row(answer, middle, exact=is_exact(middle, span), seed=run.settings.seed)])
        on_answer(is_exact(middle, span))


def judge(
    run: FimRun, folder: RunFolder, *, num_workers: int | None = None, on_verdict: Callable[[bool], None]
) -> None:
    """Judges every answer that has no verdict yet; equal programs once."""
    spans = {span.task_id: span for span in run.spans()}
    open_keys: dict[str, list[tuple[str, int]]] = {}
    programs: list[Program] = []
    for key, row in folder.samples.items():
        judged = folder.verdicts.get(key)
        if judged is None or judged["status"] == "harness_error":
            program = spans[key[0]].program(row["completion"])
            open_keys.setdefault(program.digest, []).append(key)
            programs.append(program)

    def settle(program: Program, verdict: Verdict) -> None:
        keys = open_keys[program.digest]
        folder.add_verdicts(_verdicts(program, verdict, [(key, folder.samples[key]["exact"]) for key in keys]))
        for _ in keys:
            on_verdict(verdict.passed)

    if programs:
        judge_programs(run.benchmark, programs, run.isolation, run.rules, num_workers=num_workers, on_verdict=settle)


def _row(answer: Answer, middle: str, *, exact: bool, seed: int) -> dict[str, Any]:
    task_id, index = answer.key
    return {
        "task_id": task_id,
        "i": index,
        "seed": sample_seed(seed, task_id, index),
        "raw": answer.text,
        "completion": middle,
        "exact": exact,
        "finish_reason": answer.finish_reason,
        "num_tokens": answer.num_tokens,
        "seconds": answer.seconds,
    }


def _verdicts(
    program: Program, verdict: Verdict, keys: Sequence[tuple[tuple[str, int], bool]]
) -> Iterator[dict[str, Any]]:
    for place, ((task_id, index), exact) in enumerate(keys):
        yield {
            "task_id": task_id,
            "i": index,
            "program_sha256": program.digest,
            **verdict.to_json(),
            "cached": place > 0,
            "exact": exact,
        }


def _line_cuts(text: str) -> list[tuple[int, int]]:
    """Start and end of each line that is not blank, without its line break."""
    cuts, start = [], 0
    for line in text.split("\n"):
        if line.strip():
            cuts.append((start, start + len(line)))
        start += len(line) + 1
    return cuts


def _random_cuts(text: str, count: int, generator: random.Random) -> list[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for _ in range(_MAX_TRIES):
        if len(found) == count:
            break
        start, stop = sorted(generator.sample(range(len(text) + 1), 2))
        if text[start:stop].strip():
            found.add((start, stop))
    return sorted(found)
