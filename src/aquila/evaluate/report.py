"""A report over runs: `report.json`, `report.md` and `report.html`.

What `report.json` holds follows from the runs' files alone: equal files give equal bytes. What another run of the same
samples would measure anew (seconds, memory, what was cached, when it began) stands under `timing`.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aquila.evaluate.contamination_lookup import contamination_of
from aquila.evaluate.judging import DEFAULT_KS
from aquila.evaluate.pass_at_k import estimate
from aquila.evaluate.report_html import report_page
from aquila.evaluate.report_markdown import report_text
from aquila.evaluate.run_results import RunResults, find_runs, read_run
from aquila.evaluate.tasks import known_issues
from aquila.evaluate.verdict import STATUSES
from aquila.files import atomic_write

FORMAT, VERSION = "aquila-eval-report", 1
_ONE_ANSWER = ("choice", "gsm8k")  # whose pass@1 is called accuracy
_SETTINGS = ("prompt_style", "preset", "sampling", "judge", "isolation", "toolchain", "data", "versions")
_KNOWN = frozenset(
    {*_SETTINGS, "format", "format_version", "bench", "language", "model", "num_tasks", "created"}
)  # others are those of one benchmark alone
_MOST_BINS = 20


def write_report(run_dirs: Sequence[Path], out: Path, *, ks: Sequence[int] = DEFAULT_KS) -> dict[str, Any]:
    """Writes the three files into `out` and returns what is in report.json.

    Args:
        run_dirs: directories of runs, or folders of such.
        out: made where it is not there.
        ks: which pass@k; those that are not defined are left out, and named.

    Raises:
        EvaluationError: something is no run, or damaged.
    """
    report = make_report([read_run(path) for path in find_runs(run_dirs)], ks=ks)
    write_pages(out, "report", report, report_text(report), report_page(report))
    return report


def write_pages(out: Path, name: str, record: dict[str, Any], text: str, page: str) -> None:
    """`name`.json, .md and .html, each whole or not at all."""
    data = json.dumps(record, indent=1, ensure_ascii=True) + "\n"  # half a surrogate has no UTF-8
    for suffix, content in (("json", data), ("md", text), ("html", page)):
        with atomic_write(out / f"{name}.{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8", newline="\n")


def make_report(runs: Sequence[RunResults], *, ks: Sequence[int] = DEFAULT_KS) -> dict[str, Any]:
    """The report as JSON. `pass_at_k` of a run is null where a sample of it has no verdict."""
    return {"format": FORMAT, "format_version": VERSION, "runs": [_describe(run, ks) for run in runs]}


def _describe(run: RunResults, ks: Sequence[int]) -> dict[str, Any]:
    settings, counts = run.settings, run.counts
    statuses = Counter(verdict["status"] for verdict in run.verdicts.values())
    errors = run.harness_errors
    first = {key: errors[0][key] for key in ("task_id", "i", "detail")} if errors else None
    estimates = [] if errors else [found for k in ks if (found := estimate(list(counts.values()), k)) is not None]
    lengths = [row["num_tokens"] for row in run.samples.values() if isinstance(row.get("num_tokens"), int)]
    return {
        "label": run.label,
        "bench": settings["bench"],
        "language": settings["language"],
        "model": settings["model"],
        **{key: settings.get(key) for key in _SETTINGS},
        "more": {key: value for key, value in settings.items() if key not in _KNOWN},
        "num_tasks": settings["num_tasks"],
        "num_tasks_judged": len(counts),
        "num_samples": len(run.samples),
        "num_judged": len(run.verdicts),
        "num_wanted": run.num_wanted,
        "complete": len(run.verdicts) >= run.num_wanted and len(counts) >= settings["num_tasks"],
        "harness_errors": {"count": len(errors), "first": first} if errors else None,
        "metric": "accuracy" if settings["bench"] in _ONE_ANSWER else "pass@k",
        "pass_at_k": None
        if errors
        else {str(e.k): {"value": e.value, "low": e.low, "high": e.high} for e in estimates},
        "exact_match": _exact_match(run),
        "undefined_k": [] if errors else [k for k in ks if all(e.k != k for e in estimates)],
        "statuses": {status: statuses[status] for status in STATUSES},
        "finish_reasons": dict(sorted(Counter(str(r.get("finish_reason")) for r in run.samples.values()).items())),
        "tokens": _histogram(lengths, _even_edges(max(lengths, default=0))),
        "tasks": [{"task_id": task_id, "num_samples": n, "num_passed": c} for task_id, (n, c) in counts.items()],
        "known_issues": _known_issues(counts),
        "contamination": contamination_of(run),
        "timing": _timing(run),
    }


def _exact_match(run: RunResults) -> dict[str, float] | None:
    """Of a run that fills gaps: the share of answers that are what was cut out."""
    found = estimate(list(run.exact_counts.values()), 1) if run.exact_counts else None
    return {"value": found.value, "low": found.low, "high": found.high} if found else None


def _known_issues(counts: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """Broken published items that the run has samples of."""
    listed = known_issues()
    return [
        {
            "task_id": task_id,
            "problem": listed[task_id].problem,
            "solution_mended": listed[task_id].solution is not None,
            "test_mended": listed[task_id].test_edit is not None,
            "num_samples": total,
            "num_passed": passed,
        }
        for task_id, (total, passed) in counts.items()
        if task_id in listed
    ]


def _timing(run: RunResults) -> dict[str, Any]:
    sampling = [float(row["seconds"]) for row in run.samples.values() if row.get("seconds") is not None]
    judging = [float(row["seconds"]) for row in run.verdicts.values() if row.get("seconds") is not None]
    return {
        "created": run.settings.get("created"),
        "sample_seconds": _histogram(sampling, _spread_edges(sampling)),
        "verdict_seconds": _histogram(judging, _spread_edges(judging)),
        "num_cached": sum(bool(verdict.get("cached")) for verdict in run.verdicts.values()),
        "peak_bytes": max((int(verdict.get("peak_bytes") or 0) for verdict in run.verdicts.values()), default=0),
    }


def _histogram(values: Sequence[float], edges: Sequence[float]) -> dict[str, Any] | None:
    """Counts of values in [edge, next edge); the last edge lies above all of them. None where there are no values."""
    if not values:
        return None
    bins = Counter(bisect_right(edges, value) - 1 for value in values)
    ordered = sorted(values)
    return {
        "edges": list(edges),
        "counts": [bins[index] for index in range(len(edges) - 1)],
        "median": ordered[len(ordered) // 2],
        "p95": ordered[-(-len(ordered) * 95 // 100) - 1],
        "max": ordered[-1],
    }


def _even_edges(highest: int) -> list[int]:
    """From 0 in steps of 1, 2 or 5 times a power of ten."""
    step = next(s * 10**p for p in range(20) for s in (1, 2, 5) if s * 10**p * _MOST_BINS > highest)
    return list(range(0, highest + step + 1, step))


def _spread_edges(values: Sequence[float]) -> list[float]:
    """0 and then 1, 2, 5, 10 ... ms, to above all of them: seconds spread over orders of magnitude."""
    highest = max(values, default=0.0)
    steps = [0.0, *(s * 10**p / 1000 for p in range(10) for s in (1, 2, 5))]
    return steps[: bisect_right(steps, highest) + 1]
