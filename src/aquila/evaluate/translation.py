"""Code translation between the languages of HumanEval-X: the same task solved in one language, to be solved in another.

The prompt is CodeGeeX's (Zheng et al. 2023, arXiv:2303.17568, section 4.2): both languages by name, the solution in the
first one, and how the second one's begins; no documentation in either.

    code translation
    Python:
    def add(x: int, y: int): ...
        return x + y
    C++:
    int add(int x,int y){
"""

from collections.abc import Mapping

from aquila.errors import ConfigError, EvaluationError
from aquila.evaluate.prompts import LANGUAGE_NAMES
from aquila.evaluate.tasks import Benchmark, Task, reference_solution


def sources_by_number(benchmark: Benchmark) -> Mapping[str, Task]:
    """The tasks that are translated from, by the number at the end of their ids: `Python/7` and `CPP/7` are the same.

    Raises:
        ConfigError: the benchmark has no declarations, as HumanEval's own file.
    """
    if benchmark.name != "humaneval-x":
        raise ConfigError(f"translation is between languages of humaneval-x, not from {benchmark.name}")
    return {_number(task): task for task in benchmark.tasks.values()}


def translation_text(sources: Mapping[str, Task], task: Task) -> str:
    """What a model goes on from; its last line break is left to it, as in all our prompts."""
    source = sources.get(_number(task))
    if source is None:
        raise EvaluationError(f"{task.task_id}: the language to translate from has no task of that number")
    solved = (source.declaration + reference_solution(source)).strip("\n")
    begun = task.declaration.strip("\n")
    return f"code translation\n{LANGUAGE_NAMES[source.language]}:\n{solved}\n{LANGUAGE_NAMES[task.language]}:\n{begun}"


def _number(task: Task) -> str:
    return task.task_id.rpartition("/")[2]
