"""Files of samples: four formats in, and what is wrong with a line, by its number."""

import gzip
import json
import re
from pathlib import Path

import pytest

from aquila.errors import EvaluationError
from aquila.evaluate.judge.pool import assemble
from aquila.evaluate.samples_file import read_samples
from aquila.evaluate.tasks import Benchmark, Task

TASKS = {f"Own/{n}": Task(f"Own/{n}", "python", f"def f{n}():\n", "", "", f"f{n}") for n in range(3)}
BENCHMARK = Benchmark("own", "python", TASKS, Path("own"), "0" * 64)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_each_format_gives_the_same_programs(tmp_path: Path):
    rows = [("Own/0", "    return 1\n"), ("Own/2", "    return 2\n"), ("Own/0", "    return 3\n")]
    files = [
        write(tmp_path / "openai", *({"task_id": task, "completion": text} for task, text in rows)),
        write(tmp_path / "codegeex", *({"task_id": task, "generation": text, "prompt": "x"} for task, text in rows)),
        write(
            tmp_path / "evalplus", *({"task_id": task, "solution": TASKS[task].prompt + text} for task, text in rows)
        ),
    ]
    packed = tmp_path / "samples.jsonl.gz"
    packed.write_bytes(gzip.compress(files[0].read_bytes() + b"\n\n"))
    for file in (*files, packed):
        samples = read_samples(file, BENCHMARK)
        assert [(sample.task_id, sample.index) for sample in samples] == [("Own/0", 0), ("Own/2", 0), ("Own/0", 1)]
        assert [assemble(BENCHMARK, sample).text for sample in samples] == [
            TASKS[task].prompt + text for task, text in rows
        ]


def test_lists_of_programs_go_by_the_benchmarks_order(tmp_path: Path):
    file = write(tmp_path / "generations.json", [["a", "b"], [], ["c"]])
    found = [(sample.task_id, sample.index, sample.text, sample.whole) for sample in read_samples(file, BENCHMARK)]
    assert found == [("Own/0", 0, "a", True), ("Own/0", 1, "b", True), ("Own/2", 0, "c", True)]


GOOD = {"task_id": "Own/0", "completion": "x"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "s:2: is not JSON (Expecting property name"),
        ("[1]", None),
        ("3", "s:2: is a int, not an object with task_id and completion"),
        ({"completion": "x"}, "s:2: field task_id is None, and must be a text such as 'Own/0'"),
        ({"task_id": 7, "completion": "x"}, "s:2: field task_id is 7, and must be a text"),
        ({"task_id": "Own/9", "completion": "x"}, "s:2: task_id 'Own/9' is not in own (python); did you mean 'Own/"),
        ({"task_id": "Own/1"}, "s:2: needs one of the fields completion, generation, solution; found none"),
        (
            GOOD | {"solution": "y"},
            "s:2: needs one of the fields completion, generation, solution; found completion and solution",
        ),
        ({"task_id": "Own/1", "completion": None}, "s:2: field completion is a NoneType, and must be a text"),
        ({"task_id": "Own/1", "completion": ["x"]}, "s:2: field completion is a list, and must be a text"),
        (GOOD | {"i": 4}, "s:2: sample i=4 of Own/0 was on line 1 already; keep one"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: object, message: str | None):
    file = write(tmp_path / "s", GOOD | {"i": 4}, row)
    with pytest.raises(EvaluationError, match=re.escape(message) if message else r"s:2: is a list, not an object"):
        read_samples(file, BENCHMARK)


def test_a_file_that_is_no_samples_file_is_refused(tmp_path: Path):
    with pytest.raises(EvaluationError, match="empty: holds no samples"):
        read_samples(write(tmp_path / "empty"), BENCHMARK)
    with pytest.raises(EvaluationError, match="absent: cannot be read"):
        read_samples(tmp_path / "absent", BENCHMARK)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(EvaluationError, match="binary: byte 0 is not UTF-8"):
        read_samples(tmp_path / "binary", BENCHMARK)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(EvaluationError, match=r"cut.gz: cannot be read"):
        read_samples(tmp_path / "cut.gz", BENCHMARK)
    with pytest.raises(EvaluationError, match="has 4 lists, own in python has 3 tasks"):
        read_samples(write(tmp_path / "g.json", [["a"]] * 4), BENCHMARK)
    with pytest.raises(EvaluationError, match="entry 2 is a str, not a list of programs"):
        read_samples(write(tmp_path / "h.json", [["a"], "b"]), BENCHMARK)


def test_a_packed_file_that_was_damaged(tmp_path: Path):
    packed = bytearray(gzip.compress(b'{"task_id": "HumanEval/0", "completion": ""}\n' * 200))
    packed[20:40] = bytes(20)
    path = tmp_path / "samples.jsonl.gz"
    path.write_bytes(packed)
    with pytest.raises(EvaluationError, match=r"samples.jsonl.gz: cannot be read: .*; give a file of samples"):
        read_samples(path, BENCHMARK)
