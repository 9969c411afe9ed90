"""How a report says things: shared by its HTML and Markdown forms."""

from collections.abc import Iterator, Mapping
from typing import Any

from aquila.config import format_size
from aquila.evaluate.markup import clean

MOST_TOUCHED = 50  # items of a contamination table that a page shows


def score_name(run: Mapping[str, Any], k: str) -> str:
    return "accuracy" if run["metric"] == "accuracy" and k == "1" else f"pass@{k}"


def share(value: float) -> str:
    return f"{value:.1%}".replace("%", " %")


def interval(figures: Mapping[str, float]) -> str:
    """`26.2 % (19.5 to 33.5)`."""
    low, high = (f"{figures[name]:.1%}"[:-1] for name in ("low", "high"))
    return f"{share(figures['value'])} ({low} to {high})"


def refusal(run: Mapping[str, Any]) -> str | None:
    """Why there is no pass@k; None where there may be."""
    if run["harness_errors"]:
        found = run["harness_errors"]
        first = found["first"]
        where = f"{first['task_id']} sample {first['i']}: {first['detail'] or 'no reason given'}"
        return (
            f"No score: the harness failed on {found['count']} of {run['num_judged']} samples, "
            f"first {where}. Mend what is named and judge again."
        )
    return None if run["num_judged"] else "No score: no sample is judged yet."


def remarks(run: Mapping[str, Any]) -> Iterator[str]:
    """What a reader must know beside the score."""
    if not run["complete"]:
        yield (
            f"This run is not complete: {run['num_judged']:,} of {run['num_wanted']:,} samples are judged, of "
            f"{run['num_tasks_judged']} of {run['num_tasks']} tasks. The score is that of the judged ones alone."
        )
    if run["exact_match"]:
        yield f"Exactly what was cut out: {interval(run['exact_match'])} of the answers."
    if too_long := run["finish_reasons"].get("too_long"):
        yield (
            f"{too_long:,} of {run['num_samples']:,} prompts fill the model's context alone, so their answers "
            "are empty."
        )
    for k, each in (run["pass_at_k"] or {}).items():
        if each["value"] in (0.0, 1.0):
            reach = share(min(1.0, 3 / run["num_tasks_judged"]))
            yield (
                f"{score_name(run, k)}: all tasks came out the same, so the interval has no width; by the rule "
                f"of three the true value may be {reach} away."
            )
    if run["undefined_k"] and run["pass_at_k"] and run["metric"] != "accuracy":
        names = ", ".join(f"pass@{k}" for k in run["undefined_k"])
        yield f"{names}: not defined, some task has fewer samples."


def settings(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values, those that are known."""
    yield from _model(run["model"])
    yield "Benchmark", f"{run['bench']} ({run['language']}), {run['num_tasks']} tasks"
    yield "Data", f"{run['data'].get('file')}, sha256 {run['data'].get('sha256')}"
    yield "Prompt style", str(run["prompt_style"])
    if run["preset"]:
        yield "Preset", str(run["preset"])
    yield "Sampling", _flat(run["sampling"])
    if run["judge"]:
        yield "Judge", _flat(run["judge"])
    if run["more"]:
        yield "Of this benchmark", _flat(run["more"])
    yield "Isolation", str(run["isolation"])
    yield "Toolchain", str(run["toolchain"])
    yield "Versions", _flat(run["versions"] or {})
    timing = run["timing"]
    if timing["created"]:
        yield "Begun", str(timing["created"])
    if timing["peak_bytes"]:
        yield "Most memory of a sample", format_size(timing["peak_bytes"])
    if timing["num_cached"]:
        yield "Verdicts from the cache", f"{timing['num_cached']:,}"


def _model(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Model", f"{model.get('name')} (by {model.get('source')})"
    yield "Model's sha256", str(model.get("digest") or "not known")
    if model.get("quantisation"):
        yield "Quantisation", _value(model["quantisation"])


def _flat(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in values.items() if value is not None)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return _flat(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(repr(each) if isinstance(each, str) else _value(each) for each in value) + "]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else clean(str(value))


def mended(issue: Mapping[str, Any]) -> str:
    if issue["test_mended"]:
        return "tests mended"
    return "solution mended" if issue["solution_mended"] else "built so that it can be judged"


def contamination_summary(found: Mapping[str, Any]) -> str:
    """One paragraph."""
    if not found["known"]:
        return f"Not known: {found['reason']}"
    rules, corpus = found["rules"], found["corpus"]
    return (
        f"{found['num_touched']} of {found['num_items']} items share {rules['words']} words in a row or "
        f"{rules['characters']} characters in a row with the corpus ({corpus['num_documents']:,} documents, "
        f"{format_size(corpus['num_bytes'])}); of {found['num_mostly']} it holds at least half of a part. "
        f"{found['note']}".strip()
    )


CONTAMINATION_HEADER = ("item", "part", "word runs", "longest run", "found in")


def contamination_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """A row for each part of an item that was found."""
    return [
        (
            item["task_id"],
            name,
            f"{part['words_found']} of {part['words']}",
            f"{part['longest_characters']} characters" if part["longest_characters"] else "",
            part["examples"][0]["where"] if part["examples"] else "",
        )
        for item in found["items"]
        for name, part in item["parts"].items()
        if part["words_found"] or part["longest_characters"]
    ]
