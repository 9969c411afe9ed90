"""A run's folder: what a kill, a full disk, a second writer and other settings do to it."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from aquila.errors import ConfigError, EvaluationError
from aquila.evaluate.run_folder import RunFolder, read_facts, read_rows

FACTS = {"bench": "humaneval", "model": {"name": "m", "url": "http://a"}, "sampling": {"n": 2, "temperature": 0.2}}


def row(i: int, **more: object) -> dict:
    return {"task_id": "T/0", "i": i, "raw": "第一行\n", **more}


def test_what_was_added_is_there_again(tmp_path):
    with RunFolder(tmp_path / "run", FACTS) as run:
        run.add_samples([row(0), row(1)])
        run.add_verdicts([{"task_id": "T/0", "i": 0, "status": "passed"}])
    with RunFolder(tmp_path / "run", FACTS) as run:
        assert run.samples == {("T/0", 0): row(0), ("T/0", 1): row(1)}
        assert run.verdicts["T/0", 0]["status"] == "passed"
    assert read_facts(tmp_path / "run")["format"] == "aquila-eval-run"


@pytest.mark.parametrize("tail", [b'{"task_id": "T/0", "i": 1, "ra', b"\0\0\0\0\n", b'{"i": 3}\n'])
def test_a_torn_last_line_is_dropped_and_written_over(tmp_path, tail):
    with RunFolder(tmp_path / "run", FACTS) as run:
        run.add_samples([row(0)])
    file = tmp_path / "run" / "samples.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + tail)
    assert list(read_rows(tmp_path / "run", "samples.jsonl")) == [("T/0", 0)]
    with RunFolder(tmp_path / "run", FACTS) as run:
        run.add_samples([row(1)])
    assert file.read_bytes() == whole + json.dumps(row(1), ensure_ascii=False).encode() + b"\n"


def test_a_line_that_is_damaged_elsewhere_is_named(tmp_path):
    with RunFolder(tmp_path / "run", FACTS) as run:
        run.add_samples([row(0), row(1)])
    file = tmp_path / "run" / "samples.jsonl"
    file.write_bytes(b"{}\n" + file.read_bytes())
    with pytest.raises(EvaluationError, match=re.escape(f"{file}:1: is no line of a run")):
        RunFolder(tmp_path / "run", FACTS)


def test_a_sample_that_is_judged_again_has_its_last_verdict(tmp_path):
    with RunFolder(tmp_path / "run", FACTS) as run:
        run.add_verdicts([{"task_id": "T/0", "i": 0, "status": "harness_error"}])
        run.add_verdicts([{"task_id": "T/0", "i": 0, "status": "passed"}])
    assert read_rows(tmp_path / "run", "verdicts.jsonl")["T/0", 0]["status"] == "passed"


def test_other_settings_are_refused_by_name(tmp_path):
    RunFolder(tmp_path / "run", FACTS).close()
    other = {**FACTS, "sampling": {"n": 2, "temperature": 0.8}}
    with pytest.raises(ConfigError, match=r"is a run with sampling.temperature 0.2, not 0.8; give the same"):
        RunFolder(tmp_path / "run", other)
    with pytest.raises(ConfigError, match=r"with model.digest null, not \"abc\""):
        RunFolder(tmp_path / "run", {**FACTS, "model": {**FACTS["model"], "digest": "abc"}})
    RunFolder(tmp_path / "run", {**FACTS, "model": {"name": "m", "url": "http://b"}}).close()  # a server may move


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"is no folder of a run and not empty \(thesis.tex\)"):
        RunFolder(tmp_path, FACTS)
    with pytest.raises(EvaluationError, match=r"it has no run\.json"):
        read_facts(tmp_path)


def test_two_writers_are_one_too_many(tmp_path):
    with (
        RunFolder(tmp_path / "run", FACTS),
        pytest.raises(EvaluationError, match=f"process {os.getpid()} is writing this run"),
    ):
        RunFolder(tmp_path / "run", FACTS)
    RunFolder(tmp_path / "run", FACTS).close()


WRITER = """
import sys
from pathlib import Path
from aquila.errors import EvaluationError
from aquila.evaluate.run_folder import RunFolder
run = RunFolder(Path(sys.argv[1]), {})
try:
    for i in range(1000):
        run.add_samples([{"task_id": "T/0", "i": i, "raw": "x" * 100}])
except EvaluationError as error:
    print(error)
"""


def test_a_full_disk_leaves_whole_lines_and_one_message(tmp_path):
    folder = tmp_path / "run"
    limit = 10_000  # bytes of a file
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(folder)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "samples.jsonl: cannot be written: File too large" in done.stdout
    data = (folder / "samples.jsonl").read_bytes()
    assert data.endswith(b"\n")
    kept = [json.loads(line) for line in data.splitlines()]
    assert f"{len(kept)} lines are kept" in done.stdout
    assert [each["i"] for each in kept] == list(range(len(kept)))
    with RunFolder(folder, {}) as run:
        run.add_samples([{"task_id": "T/0", "i": len(kept)}])
    assert len(read_rows(folder, "samples.jsonl")) == len(kept) + 1


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="cannot be made: Not a directory; give another --out"):
        RunFolder(tmp_path / "file" / "run", FACTS)
