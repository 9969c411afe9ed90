"""A report as Markdown: scores, verdicts, contamination and settings, without the charts."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aquila.evaluate.markup import clean
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

_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    escaped = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", escaped)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *([plain(cell) for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def report_text(report: Mapping[str, Any]) -> str:
    lines = ["# Evaluation", "", *_scores(report["runs"])]
    for run in report["runs"]:
        lines += ["", f"## {plain(run['label'])}", "", *_parts(run)]
    return "\n".join(lines) + "\n"


def _scores(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = []
    for run in runs:
        if run["pass_at_k"]:
            rows += [(run["label"], score_name(run, k), interval(each)) for k, each in run["pass_at_k"].items()]
        else:
            rows.append((run["label"], "", "no score"))
    yield from markdown_table(("run", "score", "value (95 % interval)"), rows)


def _parts(run: Mapping[str, Any]) -> Iterator[str]:
    problem = refusal(run)
    for text in ([problem] if problem else []) + list(remarks(run)):
        yield from (plain(text), "")
    if run["num_judged"]:
        rows = [
            (name.replace("_", " "), f"{count:,}", share(count / run["num_judged"]))
            for name, count in run["statuses"].items()
            if count
        ]
        yield from markdown_table(("verdict", "samples", "share"), rows)
        passed = [task["task_id"] for task in run["tasks"] if task["num_passed"]]
        yield from ("", f"Tasks with a passed sample: {len(passed)} of {len(run['tasks'])}", "")
    yield from ("### Contamination", "", plain(contamination_summary(run["contamination"])))
    rows = contamination_rows(run["contamination"]) if run["contamination"]["known"] else []
    if rows:
        yield from ("", *markdown_table(CONTAMINATION_HEADER, rows[:MOST_TOUCHED]))
    if run["known_issues"]:
        yield from ("", "### Broken published items in this run", "")
        rows = [
            (issue["task_id"], issue["problem"], mended(issue), f"{issue['num_passed']} of {issue['num_samples']}")
            for issue in run["known_issues"]
        ]
        yield from markdown_table(("item", "what is wrong", "here", "passed"), rows)
    yield from ("", "### Settings", "")
    yield from markdown_table(("setting", "value"), settings(run))
