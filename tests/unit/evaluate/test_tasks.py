"""Benchmark files: the published ones are read, all others refused."""

import gzip
import shutil
from pathlib import Path

import pytest

from aquila.errors import ConfigError, EvaluationError
from aquila.evaluate.data_files import add_files, open_benchmark
from aquila.evaluate.tasks import file_names, known_issues, read_benchmark, reference_solution
from parts import shared_data

LANGUAGES = ("python", "cpp", "java", "js", "go", "rust")


@pytest.fixture
def folder() -> Path:
    return shared_data("humaneval")


def test_humaneval_has_its_164_tasks_in_order(folder: Path):
    benchmark = read_benchmark("humaneval", folder / "HumanEval.jsonl.gz")
    assert benchmark.language == "python"
    assert list(benchmark.tasks) == [f"HumanEval/{number}" for number in range(164)]
    assert benchmark.tasks["HumanEval/0"].entry_point == "has_close_elements"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_of_humaneval_x_is_read(folder: Path, language: str):
    benchmark = read_benchmark("humaneval-x", folder, language)
    assert len(benchmark.tasks) == 164
    for task in benchmark.tasks.values():
        assert task.language == language
        assert task.entry_point.lower().replace("_", "") in task.prompt.lower().replace("_", "")
        assert task.entry_point in task.test or language == "rust"  # a test or two there are of a helper only


def test_prompts_and_solutions_of_both_pythons_are_one(folder: Path):
    plain = read_benchmark("humaneval", folder, "python").tasks.values()
    multi = read_benchmark("humaneval-x", folder, "python").tasks.values()
    for one, other in zip(plain, multi, strict=True):
        assert (one.prompt, one.canonical_solution) == (other.prompt, other.canonical_solution)
        assert one.entry_point == other.entry_point


def test_known_issues_are_of_tasks_and_mend_the_broken_solutions(folder: Path):
    tasks = {}
    for language in LANGUAGES:
        tasks |= read_benchmark("humaneval-x", folder, language).tasks
    assert known_issues().keys() <= tasks.keys()
    mended = {key for key in known_issues() if reference_solution(tasks[key]) != tasks[key].canonical_solution}
    assert mended == {"JavaScript/112", "JavaScript/155", "Go/95"}


def test_another_file_is_refused_by_its_digest(tmp_path: Path, folder: Path):
    lines = gzip.decompress((folder / "humaneval_js.jsonl.gz").read_bytes()).splitlines()
    other = tmp_path / "humaneval_js.jsonl.gz"
    other.write_bytes(gzip.compress(b"\n".join(lines[:-1])))
    with pytest.raises(
        EvaluationError, match=r"humaneval_js.jsonl.gz: its sha256 is [0-9a-f]{64}, that of no file of humaneval-x"
    ):
        read_benchmark("humaneval-x", other)
    with pytest.raises(EvaluationError, match="that of no file of humaneval "):
        read_benchmark("humaneval", folder / "humaneval_js.jsonl.gz")
    with pytest.raises(EvaluationError, match="holds js, not cpp; give that language's file"):
        read_benchmark("humaneval-x", folder / "humaneval_js.jsonl.gz", "cpp")


def test_what_is_not_there_is_said(tmp_path: Path):
    with pytest.raises(
        EvaluationError, match=r"absent: cannot be read: No such file or directory; give the benchmark's file"
    ):
        read_benchmark("humaneval", tmp_path / "absent")
    with pytest.raises(EvaluationError, match=r"has no humaneval_go.jsonl.gz; give the folder or checkout"):
        read_benchmark("humaneval-x", tmp_path, "go")
    with pytest.raises(ConfigError, match="is a folder: say which language of humaneval-x"):
        read_benchmark("humaneval-x", tmp_path)
    with pytest.raises(ConfigError, match="benchmark 'mbpp' is unknown; there are humaneval, humaneval-x"):
        read_benchmark("mbpp", tmp_path)
    with pytest.raises(
        EvaluationError, match=r"no file of humaneval-x in go is here; get it .a checkout of THUDM/CodeGeeX"
    ):
        open_benchmark("humaneval-x", "go")


def test_files_that_were_added_are_found(tmp_path: Path, folder: Path):
    checkout = tmp_path / "CodeGeeX" / "codegeex" / "benchmark" / "humaneval-x" / "js" / "data"
    checkout.mkdir(parents=True)
    shutil.copy(folder / "humaneval_js.jsonl.gz", checkout)
    assert len(read_benchmark("humaneval-x", tmp_path / "CodeGeeX", "js").tasks) == 164
    added = add_files(tmp_path / "CodeGeeX")
    assert [path.name for path in added] == ["humaneval_js.jsonl.gz"]
    assert open_benchmark("humaneval-x", "js").path == added[0]
    with pytest.raises(EvaluationError, match=r"holds none of HumanEval.jsonl.gz, humaneval_python.jsonl.gz"):
        add_files(checkout.parents[1] / "nothing")
    assert len(file_names()) == 7


@pytest.mark.parametrize(("name", "language"), [("humaneval", "js"), ("mbpp", "python")])
def test_what_was_never_published_is_said(name: str, language: str):
    with pytest.raises(ConfigError, match=f"there is no {name} in {language}; there are humaneval in python"):
        open_benchmark(name, language)
