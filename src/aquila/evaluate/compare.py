"""Two runs on the same tasks: is one model better, or was it luck?

Paired, since tasks differ far more than models do. One sample a task: McNemar's test, exact (the binomial of the tasks
that only one of them solved, p = 1/2; McNemar 1947). More: a bootstrap over tasks of the difference of pass@k, with
both models drawn on the same tasks.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import comb
from typing import Any

from aquila.errors import EvaluationError
from aquila.evaluate.judging import DEFAULT_KS
from aquila.evaluate.pass_at_k import pass_at_k
from aquila.evaluate.run_results import RunResults

_NUM_RESAMPLES = 2000
_OUTSIDE = 50  # of them on each side of a 95 % interval
_TOLD = ("prompt_style", "preset", "sampling", "judge", "isolation", "toolchain")  # settings whose difference matters


@dataclass(frozen=True)
class Difference:
    """pass@k of B less that of A, with its 95 % interval."""

    k: int
    a: float
    b: float
    difference: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class McNemar:
    """Tasks that both, only A, only B and neither solved, and how likely so uneven a split is by chance."""

    both: int
    only_a: int
    only_b: int
    neither: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """What tells two runs apart.

    Attributes:
        mcnemar: None where a task has more than one sample.
        tasks: (task id, samples and passed ones of A, of B) of those tasks whose share differs, the most first.
        num_left_out: tasks that only one of the runs has.
        settings: differences of the runs' settings beside the model: name, A's, B's.
    """

    a: str
    b: str
    bench: str
    language: str
    num_tasks: int
    num_left_out: int
    mcnemar: McNemar | None
    differences: Sequence[Difference]
    tasks: Sequence[tuple[str, tuple[int, int], tuple[int, int]]]
    settings: Sequence[tuple[str, Any, Any]]

    def to_json(self) -> dict[str, Any]:
        tasks = [
            {"task_id": task_id, "a": {"num_samples": n, "num_passed": c}, "b": {"num_samples": m, "num_passed": d}}
            for task_id, (n, c), (m, d) in self.tasks
        ]
        settings = [{"name": name, "a": ours, "b": theirs} for name, ours, theirs in self.settings]
        differences = [{**asdict(each), "decided": each.decided} for each in self.differences]
        return {**asdict(self), "differences": differences, "tasks": tasks, "settings": settings}


def compare(a: RunResults, b: RunResults, *, ks: Sequence[int] = DEFAULT_KS, seed: int = 0) -> Comparison:
    """Compares two runs on the tasks that both have.

    Args:
        a: one run.
        b: the other; differences are B's less A's.
        ks: which pass@k; those that are not defined in both are left out.
        seed: of the resampling.

    Raises:
        EvaluationError: they are of other data or languages, or one has no score.
    """
    for name in ("bench", "language"):
        if a.settings[name] != b.settings[name]:
            raise EvaluationError(
                f"{a.path} and {b.path} cannot be compared: {name} is {a.settings[name]!r} in one and "
                f"{b.settings[name]!r} in the other; give two runs on the same tasks"
            )
    ours, theirs = a.settings["data"].get("sha256"), b.settings["data"].get("sha256")
    if ours != theirs:
        raise EvaluationError(
            f"{a.path} and {b.path} cannot be compared: their data differ, sha256 {str(ours)[:12]} and "
            f"{str(theirs)[:12]}; give two runs on the same tasks"
        )
    for run in (a, b):
        run.require_verdicts()
    common = [task_id for task_id in a.counts if task_id in b.counts]
    if not common:
        raise EvaluationError(f"{a.path} and {b.path} have no task in common, so there is nothing to compare")
    pairs = [(a.counts[task_id], b.counts[task_id]) for task_id in common]
    differing = [
        (task_id, *pair) for task_id, pair in zip(common, pairs, strict=True) if _share(pair[0]) != _share(pair[1])
    ]
    return Comparison(
        a=a.label,
        b=b.label,
        bench=a.settings["bench"],
        language=a.settings["language"],
        num_tasks=len(common),
        num_left_out=len(a.counts) + len(b.counts) - 2 * len(common),
        mcnemar=mcnemar([(x[1], y[1]) for x, y in pairs]) if all(x[0] == y[0] == 1 for x, y in pairs) else None,
        differences=[each for k in ks if (each := paired_difference(pairs, k, seed=seed)) is not None],
        tasks=sorted(differing, key=lambda task: -abs(_share(task[2]) - _share(task[1]))),
        settings=[
            (name, a.settings.get(name), b.settings.get(name))
            for name in _TOLD
            if a.settings.get(name) != b.settings.get(name)
        ],
    )


def mcnemar(solved: Sequence[tuple[int, int]]) -> McNemar:
    """Of whether A and B solved each task, 0 or 1."""
    both = sum(a and b for a, b in solved)
    only_a, only_b = sum(a and not b for a, b in solved), sum(b and not a for a, b in solved)
    uneven, fewer = only_a + only_b, min(only_a, only_b)
    tail = Fraction(sum(comb(uneven, count) for count in range(fewer + 1)), 2**uneven)
    return McNemar(both, only_a, only_b, len(solved) - both - uneven, float(min(Fraction(1), 2 * tail)))


def paired_difference(
    pairs: Sequence[tuple[tuple[int, int], tuple[int, int]]], k: int, *, seed: int = 0
) -> Difference | None:
    """pass@k of B less that of A; None where it is not defined for every task of both.

    Args:
        pairs: samples and correct ones of A and of B, a pair a task.
        k: how many tries.
        seed: of the resampling.
    """
    if not pairs or min(min(x[0], y[0]) for x, y in pairs) < k:
        return None
    exact = [(pass_at_k(*x, k), pass_at_k(*y, k)) for x, y in pairs]
    count = len(exact)
    a, b = (sum(value[side] for value in exact) / count for side in (0, 1))
    each = [float(y - x) for x, y in exact]
    generator = random.Random(seed)
    means = sorted(sum(generator.choices(each, k=count)) / count for _ in range(_NUM_RESAMPLES))
    return Difference(k, float(a), float(b), float(b - a), means[_OUTSIDE], means[-1 - _OUTSIDE])


def _share(counts: tuple[int, int]) -> Fraction:
    return Fraction(counts[1], counts[0])
