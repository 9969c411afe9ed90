"""Items planted into each form of corpus are found and named; clean text is clean; reports say what is known."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aquila.errors import ConfigError, DataError, EvaluationError
from aquila.evaluate import contamination_lookup, corpus
from aquila.evaluate.contamination import attach, find_contamination, write_contamination
from aquila.evaluate.contamination_items import Items, items_of, items_of_file
from aquila.evaluate.report import write_report
from aquila.evaluate.tasks import read_benchmark
from data_parts import TEXTS, pack_texts, write_documents, write_jsonl
from parts import shared_data, tiny_tokenizer
from run_results_parts import tasks, write_run

SOLUTION = """    kept = [value for value in numbers if value > threshold and not value % divisor]
    return sorted(kept, key=lambda value: (value % 7, -value))
"""
PROMPT = (
    'def keep_large(numbers, threshold, divisor):\n    """Keeps what is large and divisible, smallest rest first."""\n'
)
RECORDS = [
    {
        "task_id": "Bench/0",
        "prompt": PROMPT,
        "canonical_solution": SOLUTION,
        "test": "assert keep_large([], 1, 2) == []",
    },
    {"task_id": "Bench/1", "prompt": "def other():\n", "canonical_solution": "    return 1\n", "test": "other()"},
]
PLANTED = 17  # of the documents


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Items:
    return items_of_file(write_jsonl(tmp_path_factory.mktemp("bench") / "bench.jsonl", RECORDS))


def texts(planted: str = SOLUTION) -> list[str]:
    """Documents of which one holds an item."""
    return [f"{text}\n{planted}\nprint()" if number == PLANTED else text for number, text in enumerate(TEXTS)]


def write_lines(folder: Path, planted: str) -> tuple[Path, str]:
    path = write_jsonl(folder / "corpus.jsonl", [{"text": text} for text in texts(planted)])
    return path, f"{path}, line {PLANTED + 1}"


def write_packed_lines(folder: Path, planted: str) -> tuple[Path, str]:
    path = folder / "corpus.jsonl.gz"
    rows = [{"messages": [{"role": "user", "content": "?"}, {"content": text}]} for text in texts(planted)]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path, f"{path}, line {PLANTED + 1}"


def write_parquet(folder: Path, planted: str) -> tuple[Path, str]:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = folder / "corpus.parquet"
    parquet.write_table(pyarrow.table({"id": range(len(TEXTS)), "code": texts(planted)}), path, row_group_size=8)
    return path, f"{path}, row {PLANTED + 1}"


def write_tree(folder: Path, planted: str) -> tuple[Path, str]:
    for number, text in enumerate(texts(planted)):
        path = folder / "src" / f"part{number % 3}" / f"{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "src" / "picture.png").write_bytes(b"\x89PNG\0" + planted.encode())
    (folder / "src" / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    return folder / "src", str(folder / "src" / f"part{PLANTED % 3}" / f"{PLANTED}.py")


def write_notebook(folder: Path, planted: str) -> tuple[Path, str]:
    path = folder / "notes.ipynb"
    path.write_text(json.dumps({"cells": [{"source": [text]} for text in texts(planted)]}))
    return path, str(path)


def write_shards(folder: Path, planted: str) -> tuple[Path, str]:
    folder.mkdir(exist_ok=True)
    prefix = pack_texts(folder / "shard", texts(planted)).prefix
    (folder / "shard.jsonl").unlink()  # what it was packed from
    return folder, f"{prefix}, document {PLANTED}"


FORMS = [write_lines, write_packed_lines, write_parquet, write_tree, write_notebook, write_shards]


@pytest.mark.parametrize("write", FORMS)
def test_what_is_planted_is_found_and_named(
    tmp_path: Path, items: Items, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, str], tuple[Path, str]]
):
    monkeypatch.setattr("aquila.data.readers.UNIT_BYTES", 1500)  # so that there are several stretches
    monkeypatch.setattr(corpus, "_STRETCH_TOKENS", 700)
    path, where = write(tmp_path, SOLUTION)
    record = find_contamination(items, [path], tokenizer=tiny_tokenizer())
    assert (record["num_items"], record["num_touched"], record["num_mostly"]) == (2, 1, 1)
    [item] = record["items"]
    solution = item["parts"]["canonical_solution"]
    assert item["task_id"] == "Bench/0"
    assert solution["words_found"] == solution["words"] == 10  # of its 22 words
    assert solution["characters_found"] == solution["characters"]
    assert solution["longest_characters"] == len("".join(SOLUTION.split()))
    assert [example["where"] for example in solution["examples"]] == [where]
    assert item["parts"]["prompt"]["words_found"] == 0


@pytest.mark.parametrize("write", FORMS)
def test_clean_text_is_clean(tmp_path: Path, items: Items, write: Callable[[Path, str], tuple[Path, str]]):
    path, _ = write(tmp_path, "nothing of the kind")
    record = find_contamination(items, [path], tokenizer=tiny_tokenizer())
    assert (record["num_touched"], record["items"]) == (0, [])
    assert record["corpus"]["num_bytes"] >= sum(len(text.encode()) for text in TEXTS)


def test_a_large_file_of_text_is_read_in_pieces(tmp_path: Path, items: Items, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus, "_PIECE_BYTES", 1000)
    monkeypatch.setattr(corpus, "_OVERLAP_BYTES", 400)
    for place in range(900, 1100, 25):  # across the end of a piece
        path = tmp_path / f"{place}.txt"
        path.write_text("x" * place + "\n" + SOLUTION + "y" * 3000)
        [item] = find_contamination(items, [path])["items"]
        solution = item["parts"]["canonical_solution"]
        assert solution["characters_found"] == solution["characters"]
        assert solution["examples"][0]["where"].startswith(f"{path}, byte ")


def test_processes_find_what_one_finds(tmp_path: Path, items: Items, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("aquila.data.readers.UNIT_BYTES", 1500)
    lines, _ = write_lines(tmp_path, SOLUTION + PROMPT)
    shards, _ = write_shards(tmp_path / "shards", PROMPT)
    steps: list[tuple[int, int]] = []
    alone = find_contamination(items, [lines, shards], tokenizer=tiny_tokenizer())
    together = find_contamination(
        items, [lines, shards], tokenizer=tiny_tokenizer(), workers=2, progress=lambda *step: steps.append(step)
    )
    assert alone == together
    assert alone["num_touched"] == 1
    assert steps[0] == (0, steps[0][1])
    assert steps[-1] == (steps[0][1], steps[0][1])


def test_only_the_field_that_is_asked_for(tmp_path: Path, items: Items):
    path = write_jsonl(tmp_path / "c.jsonl", [{"text": "clean", "note": SOLUTION}, {"text": SOLUTION[:400]}, "x", {}])
    record = find_contamination(items, [path], text_key="text")
    [item] = record["items"]
    assert item["parts"]["canonical_solution"]["examples"][0]["where"] == f"{path}, line 2"
    assert record["corpus"]["num_skipped"] == 2
    everything = find_contamination(items, [path])
    places = [each["where"] for each in everything["items"][0]["parts"]["canonical_solution"]["examples"]]
    assert places == [f"{path}, line 1", f"{path}, line 2"]


def test_shards_need_the_tokenizer_that_made_them(tmp_path: Path, items: Items):
    (tmp_path / "a").mkdir()
    prefix = pack_texts(tmp_path / "a" / "shard").prefix
    with pytest.raises(ConfigError, match=r"shard: a token shard; give the tokenizer that made it \(--tokenizer\)"):
        find_contamination(items, [prefix])
    with pytest.raises(DataError, match=r"ids were made by tokenizer \w{12}, the one given is \w{12}"):
        find_contamination(items, [prefix], tokenizer=tiny_tokenizer(300))
    strange = write_documents(tmp_path / "strange", [[1, 2, 319], [5]]).prefix
    with pytest.raises(DataError, match="holds id 319, the tokenizer has 300 ids"):
        find_contamination(items, [strange], tokenizer=tiny_tokenizer(300))
    with pytest.raises(ConfigError, match="no such file or folder"):
        find_contamination(items, [tmp_path / "absent"])


def test_humaneval_in_a_corpus_that_holds_some_of_it(tmp_path: Path):
    benchmark = read_benchmark("humaneval", shared_data("humaneval") / "HumanEval.jsonl.gz")
    chosen = [benchmark.tasks[f"HumanEval/{number}"] for number in (3, 77, 140)]
    rows = [{"code": f"# forum post\n{task.prompt}{task.canonical_solution}"} for task in chosen]
    path = write_jsonl(tmp_path / "forum.jsonl", [*rows, *({"code": text} for text in TEXTS)])
    record = find_contamination(items_of(benchmark), [path])
    assert [item["task_id"] for item in record["items"]] == [task.task_id for task in chosen]
    assert record["num_mostly"] == 3
    assert record["items"][0]["parts"]["test"]["words_found"] == 0


def test_a_benchmark_that_cannot_be_read(tmp_path: Path):
    broken, empty = tmp_path / "broken.jsonl", tmp_path / "empty.jsonl"
    broken.write_text('{"question": "1 + 1"}\n{"question"\n')
    empty.write_text('{"id": 3}\n')
    with pytest.raises(EvaluationError, match=r"broken\.jsonl:2: is not JSON"):
        items_of_file(broken)
    with pytest.raises(EvaluationError, match=r"empty\.jsonl: holds no text"):
        items_of_file(empty)


def record_for(items: Items, **changes: Any) -> dict[str, Any]:
    return {
        "format": "aquila-contamination",
        "format_version": 1,
        "bench": items.to_json(),
        "rules": {"words": 13, "characters": 50},
        "corpus": {"inputs": ["c"], "num_documents": 3, "num_bytes": 9, "num_skipped": 0, "training_data": None},
        "num_items": 2,
        "num_touched": 0,
        "num_mostly": 0,
        "items": [],
        **changes,
    }


def test_a_report_says_what_was_attached_to_the_run(tmp_path: Path, items: Items):
    path, where = write_lines(tmp_path, SOLUTION)
    record = find_contamination(items, [path])
    run = write_run(tmp_path / "run", tasks(2, name="Bench"), data={"sha256": items.sha256})
    assert attach(record, run) == run / "contamination.json"
    [found] = write_report([run], tmp_path)["runs"]
    assert found["contamination"]["known"]
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8").replace("\\", "")
        assert "1 of 2 items share 13 words in a row or 50 characters in a row with the corpus (30 documents" in text
        assert "of 1 it holds at least half of a part" in text
        assert where in text


def test_it_is_not_attached_to_a_run_on_other_data(tmp_path: Path, items: Items):
    run = write_run(tmp_path / "run", tasks(2))
    with pytest.raises(EvaluationError, match="is a run on data with sha256 b796127e635a, the search was for"):
        attach(record_for(items), run)
    write_contamination(record_for(items), run / "contamination.json")
    [found] = write_report([run], tmp_path)["runs"]
    assert found["contamination"] == {
        "known": False,
        "reason": "contamination.json beside the run is of another benchmark (bench.jsonl)",
    }


def test_what_was_found_in_a_models_training_data_is_kept_for_its_reports(tmp_path: Path, items: Items):
    training = {"data": "12" * 32, "checkpoint": str(tmp_path / "gone"), "sources": ["shard"], "base": "smollm2-135m"}
    settings = {"model": {"training": training}, "data": {"sha256": items.sha256}}
    run = write_run(tmp_path / "run", tasks(2), **settings)
    [before] = write_report([run], tmp_path)["runs"]
    assert before["contamination"]["reason"] == f"the training checkpoint {tmp_path / 'gone'} is not here"
    record = record_for(items)
    record["corpus"]["training_data"] = training["data"]
    assert contamination_lookup.keep(record) is not None
    [after] = write_report([run], tmp_path)["runs"]
    assert after["contamination"]["num_touched"] == 0
    assert after["contamination"]["note"].startswith("What smollm2-135m, which the training began with")


def test_a_model_that_does_not_say_what_it_has_read(tmp_path: Path):
    [found] = write_report([write_run(tmp_path / "run", tasks(2))], tmp_path)["runs"]
    assert found["contamination"]["known"] is False
    assert "does not say what it was trained on" in found["contamination"]["reason"]
