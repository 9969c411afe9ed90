"""What a report says of runs, that it says the same each time, and that nothing in a run becomes markup."""

import json
import random
from html.parser import HTMLParser
from pathlib import Path

import pytest

from aquila.errors import EvaluationError
from aquila.evaluate.leaderboard import write_leaderboard
from aquila.evaluate.pass_at_k import estimate
from aquila.evaluate.report import write_report
from aquila.evaluate.run_results import find_runs, read_run
from run_results_parts import tasks, write_run

HOSTILE = "<script>alert('1')</script><img src=x onerror=\"a\">\"'&`|[a](b)*_\x1b[31m\u202e\ud800"


def test_scores_are_those_of_the_estimator(tmp_path: Path):
    run = write_run(tmp_path / "run", {"HumanEval/0": 5, "HumanEval/1": 2, "HumanEval/2": 0})
    report = write_report([run], tmp_path / "out", ks=(1, 3, 10))
    [found] = report["runs"]
    expected = estimate([(5, 5), (5, 2), (5, 0)], 3)
    assert expected is not None
    assert found["pass_at_k"]["3"] == {"value": expected.value, "low": expected.low, "high": expected.high}
    assert (list(found["pass_at_k"]), found["undefined_k"], found["complete"]) == (["1", "3"], [10], True)
    assert found["tasks"][1] == {"task_id": "HumanEval/1", "num_samples": 5, "num_passed": 2}
    assert (found["statuses"]["passed"], found["statuses"]["wrong"]) == (7, 8)
    assert sum(found["tokens"]["counts"]) == sum(found["timing"]["verdict_seconds"]["counts"]) == 15
    assert json.loads((tmp_path / "out" / "report.json").read_bytes()) == report
    assert "| pass@3 | 63.3 %" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_the_order_of_lines_and_a_torn_one_make_no_difference(tmp_path: Path):
    passed = {f"HumanEval/{number}": number % 6 for number in range(15)}
    plain = write_run(tmp_path / "plain", passed)
    shuffled = write_run(tmp_path / "elsewhere" / "shuffled", passed, order=random.Random(4))
    with (shuffled / "verdicts.jsonl").open("ab") as file:
        file.write(b'{"task_id": "HumanEval/3", "i": 0, "sta')
    for name, run in (("a", plain), ("b", plain), ("c", shuffled)):
        write_report([run], tmp_path / name)
    for file in ("report.json", "report.md", "report.html"):
        first, again, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert first == again == other


def test_what_is_measured_anew_stands_under_timing_alone(tmp_path: Path):
    run = write_run(tmp_path / "run", tasks(4))
    before = write_report([run], run)
    for name in ("samples", "verdicts"):
        rows = [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]
        changed = [
            {**row, "seconds": 3.0} | ({"cached": True, "peak_bytes": 1} if name == "verdicts" else {}) for row in rows
        ]
        (run / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    settings = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**settings, "created": "2027-01-01T00:00:00Z"}))
    after = write_report([run], run)
    assert before["runs"][0].pop("timing") != after["runs"][0].pop("timing")
    assert before == after


def test_a_sample_without_a_verdict_leaves_no_score(tmp_path: Path):
    passed = {**tasks(3, 5), "HumanEval/1": 4}
    run = write_run(tmp_path / "run", passed, failure="harness_error", detail="no space left")
    good = write_run(tmp_path / "good", tasks(3, 5), language="js")
    report = write_report([run, good], tmp_path)
    assert report["runs"][0]["pass_at_k"] is None
    assert report["runs"][0]["harness_errors"] == {
        "count": 1,
        "first": {"task_id": "HumanEval/1", "i": 4, "detail": "no space left"},
    }
    assert report["runs"][1]["pass_at_k"]["1"]["value"] == 1.0
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "the harness failed on 1 of 15 samples, first HumanEval/1 sample 4: no space left" in text


def test_a_run_that_goes_on_says_how_far_it_is(tmp_path: Path):
    run = write_run(tmp_path / "run", tasks(3), num_tasks=20)
    [found] = write_report([run], tmp_path)["runs"]
    assert not found["complete"]
    said = "This run is not complete: 15 of 100 samples are judged, of 3 of 20 tasks"
    assert said in (tmp_path / "report.html").read_text(encoding="utf-8")
    (run / "verdicts.jsonl").unlink()
    [found] = write_report([run], tmp_path)["runs"]
    assert found["pass_at_k"] == {}
    assert "no sample is judged yet" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_what_only_one_benchmark_has_is_told_too(tmp_path: Path):
    run = write_run(tmp_path / "run", tasks(20, 5), bench="gsm8k", shots=5)
    [found] = write_report([run], tmp_path)["runs"]
    assert (found["metric"], found["more"]) == ("accuracy", {"shots": 5})
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| Of this benchmark | shots 5 |" in text
    assert "by the rule of three the true value may be 15.0 % away" in text


def test_broken_items_of_the_run_are_named(tmp_path: Path):
    run = write_run(tmp_path / "run", tasks(30, name="CPP"), bench="humaneval-x", language="cpp")
    [found] = write_report([run], tmp_path)["runs"]
    assert [(each["task_id"], each["test_mended"]) for each in found["known_issues"]] == [
        ("CPP/22", False),
        ("CPP/23", True),
    ]


class Tags(HTMLParser):
    """Every tag and attribute of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_nothing_in_a_run_becomes_markup(tmp_path: Path):
    def write(name: str, text: str) -> Path:
        settings = {"model": {"name": text, "digest": text}, "prompt_style": text, "toolchain": text}
        return write_run(tmp_path / name, {f"{text}/1": 1}, failure="harness_error", detail=text, **settings)

    def pages(run: Path) -> list[Tags]:
        write_report([run], run)
        write_leaderboard([run], run)
        return [Tags((run / f"{name}.html").read_text(encoding="utf-8")) for name in ("report", "leaderboard")]

    for hostile, harmless in zip(pages(write("hostile", HOSTILE)), pages(write("plain", "word")), strict=True):
        assert hostile.tags == harmless.tags
        assert hostile.attributes == harmless.attributes
        assert any("<script>alert('1')</script>" in text for text in hostile.text)
        assert not any(character in text for text in hostile.text for character in "\x1b\u202e\ud800")
    markdown = (tmp_path / "hostile" / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert r"\|\[a\](b)\*\_" in markdown


def test_the_page_needs_nothing_and_runs_nothing(tmp_path: Path):
    write_report([write_run(tmp_path / "run", tasks(30))], tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(tags.tags)
    assert not {"src", "href", "style", "action", "onload", "srcset"} & tags.attributes
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src &#x27;none&#x27;" in page


def test_a_leaderboard_ranks_as_far_as_intervals_tell(tmp_path: Path):
    greedy = {"sampling": {"n": 1, "temperature": 0.0}}
    for name, solved in (("low", 2), ("mid", 50), ("near", 52), ("top", 99)):
        passed = {f"HumanEval/{number}": int(number < solved) for number in range(100)}
        write_run(tmp_path / "runs" / name, passed, model={"name": name}, **greedy)
    write_run(tmp_path / "runs" / "partial", tasks(3, 1), model={"name": "partial"}, num_tasks=100, **greedy)
    write_run(tmp_path / "runs" / "other", tasks(3, 1), language="js", **greedy)
    python, js = sorted(
        write_leaderboard([tmp_path / "runs"], tmp_path)["boards"], key=lambda board: -len(board["runs"])
    )
    ranks = [(run["model"], run["rank"], run["rank_to"]) for run in python["runs"]]
    assert ranks == [("top", 1, 1), ("near", 2, 3), ("mid", 2, 3), ("low", 4, 4), ("partial", None, None)]
    assert [run["model"] for run in js["runs"]] == ["tiny"]
    assert "| 2-3 | near |" in (tmp_path / "leaderboard.md").read_text(encoding="utf-8")


def test_what_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(EvaluationError, match=r"has no run\.json; give the directory of a run, or a folder of such"):
        find_runs([tmp_path])
    run = write_run(tmp_path / "run", tasks(2))
    assert find_runs([tmp_path, run]) == [run]
    settings = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({key: value for key, value in settings.items() if key != "data"}))
    with pytest.raises(EvaluationError, match=r"run\.json: field data is missing"):
        read_run(run)
    (run / "run.json").write_text(json.dumps(settings))
    (run / "verdicts.jsonl").write_text('{"task_id": "HumanEval/1", "i": 0, "status": "fine"}\n')
    with pytest.raises(EvaluationError, match="status of HumanEval/1 sample 0 is 'fine', none of passed, wrong"):
        read_run(run)
