"""Many runs on one page: a table a benchmark and language, best first.

Runs on other data are other tables. A run without a score, or not complete, stands below and has no rank. Ranks say
nothing where intervals overlap, so a rank is given with those of the runs that it cannot be told apart from.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aquila.evaluate import charts
from aquila.evaluate.contamination_lookup import contamination_of
from aquila.evaluate.judging import DEFAULT_KS
from aquila.evaluate.markup import Markup, element
from aquila.evaluate.page import page, table
from aquila.evaluate.pass_at_k import estimate
from aquila.evaluate.report import write_pages
from aquila.evaluate.report_markdown import markdown_table, plain
from aquila.evaluate.report_words import interval
from aquila.evaluate.run_results import RunResults, find_runs, read_run

FORMAT, VERSION = "aquila-eval-leaderboard", 1
_SAID = (
    "Brackets and whiskers are 95 % intervals over tasks. Where intervals overlap, ranks are ranges: 1-3 may be any of "
    "these. A run that is not complete, or has samples without a verdict, has no rank."
)


def write_leaderboard(run_dirs: Sequence[Path], out: Path, *, ks: Sequence[int] = DEFAULT_KS) -> dict[str, Any]:
    """Writes leaderboard.json, .md and .html into `out`, and returns what is in the first.

    Raises:
        EvaluationError: something is no run, or damaged.
    """
    board = make_leaderboard([read_run(path) for path in find_runs(run_dirs)], ks=ks)
    write_pages(out, "leaderboard", board, _text(board), _page(board))
    return board


def make_leaderboard(runs: Sequence[RunResults], *, ks: Sequence[int] = DEFAULT_KS) -> dict[str, Any]:
    """The leaderboard as JSON."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for run in runs:
        settings = run.settings
        key = (settings["bench"], settings["language"], str(settings["data"].get("sha256")))
        groups.setdefault(key, []).append(_row(run, ks))
    boards = [
        {"bench": bench, "language": language, "data_sha256": sha256, "runs": _ranked(rows)}
        for (bench, language, sha256), rows in sorted(groups.items())
    ]
    return {"format": FORMAT, "format_version": VERSION, "boards": boards}


def _row(run: RunResults, ks: Sequence[int]) -> dict[str, Any]:
    counts, settings = list(run.counts.values()), run.settings
    estimates = [] if run.harness_errors else [found for k in ks if (found := estimate(counts, k)) is not None]
    state = "complete" if len(run.verdicts) >= run.num_wanted else f"{len(run.verdicts)} of {run.num_wanted} judged"
    if run.harness_errors:
        state = f"{len(run.harness_errors)} samples without a verdict"
    found = contamination_of(run)
    return {
        "model": run.model_name,
        "digest": settings["model"].get("digest"),
        "quantisation": settings["model"].get("quantisation"),
        "pass_at_k": {str(each.k): {"value": each.value, "low": each.low, "high": each.high} for each in estimates},
        "n": settings["sampling"].get("n"),
        "temperature": settings["sampling"].get("temperature"),
        "prompt_style": settings.get("prompt_style"),
        "rule": (settings.get("judge") or {}).get("rule"),
        "state": state,
        "contamination": f"{found['num_touched']} of {found['num_items']}" if found["known"] else "not known",
    }


def _ranked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Best first by the smallest k; `rank` and `rank_to` are the places that a run may have; null for no rank."""
    ranked = [row for row in rows if row["state"] == "complete" and row["pass_at_k"]]
    others = [row for row in rows if row not in ranked]

    def first(row: Mapping[str, Any]) -> Mapping[str, float]:
        return next(iter(row["pass_at_k"].values()))

    ranked.sort(key=lambda row: (-first(row)["value"], row["model"], str(row["temperature"])))
    result = []
    for row in ranked:
        better = sum(first(other)["low"] > first(row)["high"] for other in ranked)
        worse = sum(first(other)["high"] < first(row)["low"] for other in ranked)
        result.append({"rank": better + 1, "rank_to": len(ranked) - worse, **row})
    return [*result, *({"rank": None, "rank_to": None, **row} for row in sorted(others, key=lambda row: row["model"]))]


def _rank(row: Mapping[str, Any]) -> str:
    if row["rank"] is None:
        return ""
    return str(row["rank"]) if row["rank"] == row["rank_to"] else f"{row['rank']}-{row['rank_to']}"


def _table(board: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    ks = sorted({k for run in board["runs"] for k in run["pass_at_k"]}, key=int)
    header = ["rank", "model", *(f"pass@{k}" for k in ks), "samples", "T", "prompt", "contaminated", "state"]
    rows = []
    for run in board["runs"]:
        scores = [interval(run["pass_at_k"][k]) if k in run["pass_at_k"] else "" for k in ks]
        temperature = "" if run["temperature"] is None else f"{run['temperature']:g}"
        more = [str(run["n"] or ""), temperature, str(run["prompt_style"] or ""), run["contamination"], run["state"]]
        model = run["model"] if not run["quantisation"] else f"{run['model']} ({run['quantisation']})"
        rows.append([_rank(run), model, *scores, *more])
    return header, rows


def _page(board: Mapping[str, Any]) -> str:
    return page("Leaderboard", element("p", _SAID, class_="soft"), *(_section(each) for each in board["boards"]))


def _section(board: Mapping[str, Any]) -> Markup:
    header, rows = _table(board)
    bars = [
        charts.Bar(run["model"], each["value"], interval(each), each["low"], each["high"])
        for run in board["runs"]
        if run["rank"] is not None
        for each in list(run["pass_at_k"].values())[:1]
    ]
    title = f"{board['bench']}, {board['language']}"
    drawn = (
        [charts.bar_chart([charts.Group(header[2], bars)], title=f"{title}: scores with 95 % intervals")]
        if bars
        else []
    )
    numbers = [place for place, name in enumerate(header) if name.startswith("pass@")]
    listed = table(header, rows, numbers=numbers, caption=f"Data {board['data_sha256']}")
    return element("section", element("h2", title), *drawn, listed)


def _text(board: Mapping[str, Any]) -> str:
    return "\n".join(_lines(board)) + "\n"


def _lines(board: Mapping[str, Any]) -> Iterator[str]:
    yield from ("# Leaderboard", "", plain(_SAID))
    for each in board["boards"]:
        yield from ("", f"## {plain(each['bench'])}, {plain(each['language'])}", "")
        yield from (*markdown_table(*_table(each)), "", f"Data {plain(each['data_sha256'])}")
