"""Solved examples before a question, chosen as lm-eval 0.4.13 chooses them (lm_eval/api/samplers.py)."""

import random
from collections.abc import Sequence
from typing import TypeVar

from aquila.errors import EvaluationError

LM_EVAL_SEED = 1234

Item = TypeVar("Item")


def first_shots(pool: Sequence[Item], count: int, what: str) -> list[Item]:
    """The first `count` examples, the same for every question."""
    _check(len(pool), count, what)
    return list(pool[:count])


def random_shots(
    pool: Sequence[Item],
    questions: Sequence[Item],
    count: int,
    what: str,
    *,
    same_pool: bool = False,
    seed: int = LM_EVAL_SEED,
) -> list[list[Item]]:
    """`count` examples for each question, drawn one question after the other by one generator.

    Args:
        pool: where to draw from.
        questions: in the order in which they are asked; what is drawn for one depends on how many came before it.
        count: examples of each question.
        what: names the questions in an error.
        same_pool: the questions themselves are the pool, and none is its own example.
        seed: of the generator.
    """
    if not count:
        return [[] for _ in questions]
    _check(len(pool) - same_pool, count, what)
    generator = random.Random(seed)
    drawn = []
    for question in questions:
        shots = generator.sample(pool, count + same_pool)
        if same_pool:
            shots = [each for each in shots if each != question][:count]
        if len(shots) < count:  # the question stands in the pool several times
            others = [each for each in pool if each != question]
            _check(len(others), count, what)
            shots = generator.sample(others, count)
        drawn.append(shots)
    return drawn


def _check(there: int, count: int, what: str) -> None:
    if count > there:
        raise EvaluationError(
            f"{what}: {count} examples are asked for and {there} are there; give the file with the examples, or "
            "fewer --shots"
        )
