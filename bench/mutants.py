"""Honest mistakes: small changes to reference solutions in Python, each a sample as a model could have written it."""

import ast
import json
import random
from collections.abc import Iterator
from pathlib import Path

from aquila.evaluate.tasks import Benchmark, Task

_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod)
_RESULTS = ("None", "True", "False", "0", "[]", "''", "{}", "-1")


class _Mutator(ast.NodeTransformer):
    """Changes the node that comes as number `target` among those that can be changed."""

    def __init__(self, target: int, generator: random.Random) -> None:
        self.target = target
        self.generator = generator
        self.seen = 0

    def _is_it(self) -> bool:
        self.seen += 1
        return self.seen - 1 == self.target

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if type(node.ops[0]) in _COMPARISONS and self._is_it():
            others = [kind for kind in _COMPARISONS if type(node.ops[0]) is not kind]
            node.ops[0] = self.generator.choice(others)()
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if type(node.op) in _OPERATORS and self._is_it():
            node.op = self.generator.choice([kind for kind in _OPERATORS if type(node.op) is not kind])()
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if type(node.value) is int and self._is_it():
            return ast.copy_location(ast.Constant(node.value + self.generator.choice((-1, 1, 2))), node)
        if type(node.value) is bool and self._is_it():
            return ast.copy_location(ast.Constant(not node.value), node)
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if self._is_it():
            node.value = ast.parse(self.generator.choice(_RESULTS), mode="eval").body
        return node


def mutants(task: Task, count: int, seed: int = 0) -> Iterator[str]:
    """`count` different continuations of the prompt, or as many as there are."""
    generator = random.Random(f"{seed} {task.task_id}")
    source = task.prompt + task.canonical_solution
    seen: set[str] = {task.canonical_solution}
    for _ in range(20 * count):
        tree = ast.parse(source)
        counter = _Mutator(-1, generator)
        counter.visit(ast.parse(source))
        _Mutator(generator.randrange(max(1, counter.seen)), generator).visit(tree)
        text = _continuation(tree, task)
        if text not in seen:
            seen.add(text)
            yield text
            if len(seen) > count:
                return


def write_corpus(benchmark: Benchmark, path: Path, per_task: int) -> int:
    """A samples file: the reference and mistakes of every task, all different. Returns how many samples it holds."""
    lines = []
    for task in benchmark.tasks.values():
        for text in (task.canonical_solution, *mutants(task, per_task - 1)):
            lines.append(json.dumps({"task_id": task.task_id, "completion": text}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def _continuation(tree: ast.Module, task: Task) -> str:
    """The body of the function under test without its docstring, indented."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == task.entry_point]
    body = functions[-1].body[1:]
    lines = "\n".join(ast.unparse(ast.fix_missing_locations(statement)) for statement in body).splitlines()
    return "".join(f"    {line}\n" for line in lines)
