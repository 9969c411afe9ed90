"""`aquila eval choice`: multiple choice, by the likelihood of the answers."""

import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aquila.cli.eval_code import (
    ConcurrentOption,
    KeyOption,
    MemoryOption,
    UrlModelOption,
    UrlOption,
    open_source,
)
from aquila.cli.eval_model import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    OutOption,
    QuantizeOption,
    progress_bar,
)

if TYPE_CHECKING:
    from aquila.evaluate.choice import Accuracy, Asked
    from aquila.evaluate.choice_data import ChoiceSet

_USUAL_SHOTS = {"ceval": 5, "cmmlu": 5, "mmlu": 5, "boolq": 0}


def choice(
    task: Annotated[str, typer.Option(help="ceval, cmmlu, mmlu or boolq.")],
    data: Annotated[list[Path], typer.Option(help="The benchmark's files, or folders of them; may be repeated.")],
    model: ModelOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    url_model: UrlModelOption = None,
    concurrent: ConcurrentOption = 8,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Solved examples before each question; 5, for BoolQ 0.")
    ] = None,
    examples: Annotated[
        list[Path] | None, typer.Option(help="Files of examples; the dev (BoolQ: train) files among --data otherwise.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which files are asked: val, test, dev or train.")] = None,
    subjects: Annotated[str | None, typer.Option(help="Only these, with commas between.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many questions a subject.")] = None,
    out: OutOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    memory_limit: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Multiple choice in lm-eval's templates: accuracy by subject and in all, with 95 % intervals."""
    options = locals()
    from aquila.evaluate.choice import Asked, accuracies, ask, pose
    from aquila.evaluate.choice_data import find_task, read_choice_set
    from aquila.evaluate.run_folder import RunFolder

    found = find_task(task)
    num_shots = _USUAL_SHOTS[task] if shots is None else shots
    names = [name.strip() for name in (subjects or "").split(",") if name.strip()]
    choice_set = read_choice_set(found, data, examples=examples or (), split=split, subjects=names)
    posed = pose(choice_set, num_shots=num_shots, limit=limit)
    facts = _facts(choice_set, num_shots, len(posed))
    done: list[Asked] = []
    num_truncated = 0
    with ExitStack() as stack:
        source = stack.enter_context(open_source(options))
        name, folder = source.name, None
        if out is not None:
            folder = stack.enter_context(RunFolder(out, {"model": source.facts(), **facts}))
        known = folder.verdicts if folder else {}
        step = stack.enter_context(progress_bar(len(posed), task, "right"))
        for each in posed:
            if row := known.get((each.task_id, 0)):
                done.append(Asked(each.task_id, each.question, tuple(row["scores"])))
                step(done[-1].correct)
        left = [each for each in posed if (each.task_id, 0) not in known]
        for asked, cut in ask(source, left, found.labels):
            done.append(asked)
            num_truncated += cut
            step(asked.correct)
            if folder is not None:
                folder.add_verdicts([_verdict(asked)])
    if num_truncated:
        print(f"{num_truncated} prompts were longer than the context and lost their beginning", file=sys.stderr)
    places = {each.task_id: place for place, each in enumerate(posed)}
    done.sort(key=lambda asked: places[asked.task_id])
    by_subject, overall = accuracies(done)
    summary = {
        "bench": "choice",
        "task": task,
        "model": name,
        "num_shots": num_shots,
        "num_truncated": num_truncated,
        "data_sha256": dict(choice_set.digests),
        "subjects": {name: each.to_json() for name, each in by_subject.items()},
        "overall": overall.to_json(),
        "mean_of_subjects": sum(each.value for each in by_subject.values()) / len(by_subject),
    }
    if as_json:
        for each in done:
            print(json.dumps(_line(found.labels, each), ensure_ascii=False))
        print(json.dumps(summary, ensure_ascii=False))
    else:
        _print(task, num_shots, by_subject, overall)


def _facts(choice_set: "ChoiceSet", num_shots: int, num_tasks: int) -> dict[str, Any]:
    """What `run.json` says beside the model."""
    task = choice_set.task.name
    listed = "".join(f"{sha256}  {name}\n" for name, sha256 in choice_set.digests.items())
    digest = hashlib.sha256(listed.encode()).hexdigest()
    return {
        "bench": "choice",
        "task": task,
        "language": "zh" if task in ("ceval", "cmmlu") else "en",
        "prompt_style": f"lm-eval, {num_shots} examples",
        "num_shots": num_shots,
        "sampling": {"n": 1, "temperature": 0.0},
        "preset": None,
        "data": {"file": ", ".join(choice_set.digests), "sha256": digest},
        "num_tasks": num_tasks,
    }


def _verdict(asked: "Asked") -> dict[str, Any]:
    status = "passed" if asked.correct else "wrong"
    scores = {"scores": asked.scores, "chosen": asked.chosen, "answer": asked.question.answer}
    return {"task_id": asked.task_id, "i": 0, "status": status, **scores}


def _line(labels: Sequence[str], asked: "Asked") -> dict[str, Any]:
    return {
        "task_id": asked.task_id,
        "subject": asked.question.subject,
        "where": asked.question.where,
        "correct": asked.correct,
        "answer": labels[asked.question.answer],
        "chosen": labels[asked.chosen],
        "scores": dict(zip(labels, asked.scores, strict=True)),
    }


def _print(task: str, num_shots: int, by_subject: dict[str, "Accuracy"], overall: "Accuracy") -> None:
    if len(by_subject) > 1:
        width = max(map(len, by_subject))
        for name, each in by_subject.items():
            print(f"{name:{width}}  {_figures(each)}")
        mean = sum(each.value for each in by_subject.values()) / len(by_subject)
        print(f"mean of {len(by_subject)} subjects: {mean:.1%}")
    print(f"{task}, {num_shots} examples: {_figures(overall)}")


def _figures(each: "Accuracy") -> str:
    low, high = each.interval
    return f"{each.value:.1%} ({each.num_correct} of {each.num_questions}; 95 % interval {low:.1%} to {high:.1%})"
