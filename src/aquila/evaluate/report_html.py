"""A report as one HTML file."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aquila.evaluate import charts
from aquila.evaluate.markup import Markup, element, join
from aquila.evaluate.page import code, folded, page, pairs, prose, table
from aquila.evaluate.report_words import (
    CONTAMINATION_HEADER,
    MOST_TOUCHED,
    contamination_rows,
    contamination_summary,
    interval,
    mended,
    refusal,
    remarks,
    score_name,
    settings,
    share,
)


def report_page(report: Mapping[str, Any]) -> str:
    """The document. It loads nothing and runs nothing."""
    runs = report["runs"]
    models = ", ".join(dict.fromkeys(str(run["model"].get("name") or "unnamed") for run in runs))
    return page(f"Evaluation: {models}", _scores(runs), *(_section(run) for run in runs))


def _scores(runs: Sequence[Mapping[str, Any]]) -> Markup:
    groups = [
        charts.Group(
            run["label"],
            [
                charts.Bar(score_name(run, k), each["value"], interval(each), each["low"], each["high"])
                for k, each in run["pass_at_k"].items()
            ],
        )
        for run in runs
        if run["pass_at_k"]
    ]
    said = element("p", "Bars are scores; whiskers and brackets are 95 % intervals over tasks.", class_="soft")
    chart = [said, charts.bar_chart(groups, title="Scores with 95 % intervals")] if groups else []
    warnings = [element("p", f"{run['label']}: {text}", class_="warn") for run in runs if (text := refusal(run))]
    return join(*warnings, *chart)


def _section(run: Mapping[str, Any]) -> Markup:
    return element("section", element("h2", run["label"]), *_parts(run))


def _parts(run: Mapping[str, Any]) -> Iterator[Markup]:
    problem = refusal(run)
    if problem:
        yield element("p", problem, class_="warn")
    elif run["pass_at_k"]:
        yield element("p", "; ".join(f"{score_name(run, k)} {interval(each)}" for k, each in run["pass_at_k"].items()))
    for text in remarks(run):
        yield element("p", text, class_="soft" if run["complete"] else "warn")
    if run["tasks"]:
        yield from _tasks(run)
        yield from _failures(run)
    yield from _distributions(run)
    yield element("h3", "Contamination")
    yield from _contamination(run["contamination"])
    if run["known_issues"]:
        yield element("h3", "Broken published items in this run")
        rows = [
            (
                issue["task_id"],
                prose(issue["problem"]),
                mended(issue),
                f"{issue['num_passed']} of {issue['num_samples']}",
            )
            for issue in run["known_issues"]
        ]
        yield table(("item", "what is wrong", "here", "passed"), rows, numbers=(3,), caption="Known-broken items")
    yield element("h3", "Settings")
    yield pairs(settings(run))


def _tasks(run: Mapping[str, Any]) -> Iterator[Markup]:
    yield element("h3", "Tasks")
    cells = [(task["task_id"], task["num_samples"], task["num_passed"]) for task in run["tasks"]]
    never = sum(passed == 0 for _, _, passed in cells)
    always = sum(passed == total for _, total, passed in cells)
    yield element("p", f"{always} of {len(cells)} tasks always passed, {never} never.")
    if len(cells) <= charts.MOST_CELLS:
        yield charts.heat_map(cells, title="Share of passed samples, a cell a task")
        yield element("p", "0 %", element("i"), "100 % of a task's samples passed", class_="key")
    rows = [(task_id, f"{passed} of {total}", share(passed / total)) for task_id, total, passed in cells]
    yield folded("All tasks as a table", table(("task", "passed", "share"), rows, numbers=(1, 2), caption="Tasks"))


def _failures(run: Mapping[str, Any]) -> Iterator[Markup]:
    yield element("h3", "Verdicts that are not passed")
    failed = {name: count for name, count in run["statuses"].items() if count and name != "passed"}
    total = run["num_judged"]
    if not failed:
        yield element("p", f"None: all {total:,} samples passed.")
        return
    bars = [
        charts.Bar(name.replace("_", " "), count / total, f"{count:,} ({share(count / total)})")
        for name, count in failed.items()
    ]
    most = max(bar.value for bar in bars)
    yield charts.bar_chart([charts.Group("", bars)], title="Verdicts other than passed", kind="fail", scale=most)


def _distributions(run: Mapping[str, Any]) -> Iterator[Markup]:
    timing = run["timing"]
    shown = (
        ("Length of samples", "tokens", run["tokens"], "{:,.0f}"),
        ("Time to sample", "seconds", timing["sample_seconds"], "{:.3g}"),
        ("Time to judge", "seconds", timing["verdict_seconds"], "{:.3g}"),
    )
    for title, unit, found, form in shown:
        if not found:
            continue
        yield element("h3", title)
        figures = ", ".join(f"{word} {form.format(found[key])}" for word, key in _QUANTILES)
        ended = ""
        if unit == "tokens" and run["finish_reasons"].get("length"):
            ended = f"; {run['finish_reasons']['length']:,} of {run['num_samples']:,} were cut at the limit"
        yield element("p", f"In {unit}: {figures}{ended}.", class_="soft")
        yield charts.histogram(found["edges"], found["counts"], title=f"{title}, {unit}", unit=unit)


_QUANTILES = (("median", "median"), ("95 % at most", "p95"), ("most", "max"))


def _contamination(found: Mapping[str, Any]) -> Iterator[Markup]:
    yield element("p", prose(contamination_summary(found)))
    rows = contamination_rows(found) if found["known"] else []
    if rows:
        shown = [(code(item), part, words, run, code(where)) for item, part, words, run, where in rows[:MOST_TOUCHED]]
        first = f", the first {len(shown)}" if len(shown) < len(rows) else ""
        caption = f"{len(rows)} parts of items that the corpus holds{first}"
        listed = table(CONTAMINATION_HEADER, shown, numbers=(2, 3), caption=caption)
        yield listed if len(rows) <= 10 else folded(caption, listed)
