"""`aquila eval choice`, `gsm8k`, `fim`, `ppl` and `lm` as typed, on a tiny model."""

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aquila.cli.app import app
from aquila.errors import AquilaError, ConfigError, SandboxError
from aquila.generate.load import load
from aquila.sandbox.isolation import find_isolation
from choice_parts import ceval_folder
from parts import CORPUS, shared_data, tiny_checkpoint
from serve_parts import running


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", max_position_embeddings=2048)


def invoke(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str | Path) -> AquilaError:
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    assert isinstance(result.exception, AquilaError), result.output
    return result.exception


def test_choice_prints_subjects_and_all_and_goes_on_with_a_run(model: Path, tmp_path: Path):
    data, out = ceval_folder(tmp_path / "data"), tmp_path / "run"
    words = ("choice", "--task", "ceval", "--data", data, "--shots", "1", "-m", model)
    lines = [json.loads(line) for line in invoke(*words, "--json", "--out", out).splitlines()]
    *asked, summary = lines
    assert [line["task_id"] for line in asked][-1] == "ceval/law/1"
    assert set(asked[0]["scores"]) == set("ABCD")
    assert asked[0]["chosen"] == max(asked[0]["scores"], key=lambda label: asked[0]["scores"][label])
    assert summary["overall"]["num_correct"] == sum(line["correct"] for line in asked)
    verdicts = out / "verdicts.jsonl"
    verdicts.write_text("".join(verdicts.read_text().splitlines(keepends=True)[:2]))
    again = [json.loads(line) for line in invoke(*words, "--json", "--out", out).splitlines()]
    assert [line["chosen"] for line in again[:-1]] == [line["chosen"] for line in asked]
    assert len(verdicts.read_text().splitlines()) == len(asked)
    text = invoke(*words)
    assert "mean of 2 subjects" in text
    assert "ceval, 1 examples:" in text


def test_choice_asks_a_server(model: Path, tmp_path: Path):
    data = ceval_folder(tmp_path / "data")
    words = ("choice", "--task", "ceval", "--data", data, "--shots", "1", "--json")
    *here, ours = [json.loads(line) for line in invoke(*words, "-m", model).splitlines()]
    with running(lambda: load(model, device="cpu")) as server:
        out = invoke(*words, "--url", server.url, "--concurrent", "2", "--out", tmp_path / "run")
        assert "--model and --url were both given" in str(refused(*words, "-m", model, "--url", server.url))
    *there, theirs = [json.loads(line) for line in out.splitlines()]
    assert theirs["overall"] == ours["overall"]
    for one, other in zip(here, there, strict=True):
        assert other["scores"] == pytest.approx(one["scores"], abs=1e-4)
    assert json.loads((tmp_path / "run" / "run.json").read_bytes())["model"]["source"] == "url"


def test_choice_refuses_other_tasks_and_another_run(model: Path, tmp_path: Path):
    data = ceval_folder(tmp_path / "data")
    assert "there are ceval, cmmlu, mmlu, boolq" in str(refused("choice", "--task", "arc", "--data", data, "-m", model))
    words = ("choice", "--task", "ceval", "--data", data, "-m", model, "--out", tmp_path / "run", "--shots")
    invoke(*words, "0")
    assert isinstance(error := refused(*words, "1"), ConfigError)
    assert "is a run with" in str(error)


def test_gsm8k_writes_a_run_with_a_report(model: Path, tmp_path: Path):
    rows = [{"question": f"{n}+1?", "answer": f"#### {n + 1}"} for n in range(3)]
    data = tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("gsm8k", "--data", data, "--shots", "1", "--max-new-tokens", "4", "-m", model, "--out", tmp_path / "run")
    result = json.loads(invoke(*words, "--json"))
    assert result["num_problems"] == 3
    assert set(result["accuracy"]) == {"strict", "flexible"}
    report = json.loads((tmp_path / "run" / "report.json").read_bytes())
    assert report["runs"][0]["metric"] == "accuracy"
    assert "flexible: " in invoke(*words)


def test_fim_makes_a_run_of_each_kind_and_order(model: Path, tmp_path: Path):
    try:
        find_isolation()
    except SandboxError as error:
        pytest.skip(str(error))
    data = shared_data("humaneval") / "HumanEval.jsonl.gz"
    out = tmp_path / "run"
    words = ("fim", "--data", data, "--kinds", "single-line", "--order", "both", "--limit", "1", "--per-task", "2")
    words = (*words, "--max-new-tokens", "4", "-m", model, "--out", out, "--workers", "1", "--json")
    runs = json.loads(invoke(*words))["runs"]
    assert [(run["kind"], run["order"], run["num_middles"]) for run in runs] == [
        ("single-line", "psm", 2),
        ("single-line", "spm", 2),
    ]
    assert all(run["exact_match"]["value"] <= 1 and run["pass_at_1"] is not None for run in runs)
    assert (out / "report.html").is_file()
    assert (out / "single-line-spm" / "verdicts.jsonl").is_file()


def test_fim_refuses_orders_and_kinds_that_are_none(model: Path):
    assert "there are psm, spm" in str(refused("fim", "-m", model, "--order", "pms"))
    assert "a server has an order of its own" in str(refused("fim", "--url", "http://127.0.0.1:1", "--order", "spm"))
    assert "'line' is unknown" in str(refused("fim", "-m", model, "--kinds", "line"))


def test_ppl_of_a_folder_is_by_language_and_adds_up(model: Path, tmp_path: Path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.py").write_text(CORPUS[:200])
    (tree / "b.py").write_text(CORPUS[200:300])
    (tree / "说明.md").write_text("第一行：打印一句问候。第二行：再打印一句。")
    (tree / "empty.py").write_text("")
    lines = [json.loads(line) for line in invoke("ppl", tree, "-m", model, "--json").splitlines()]
    assert [(line.get("language"), line.get("num_files")) for line in lines] == [("python", 2), ("zh", 1), (None, None)]
    assert lines[-1]["file"] == "total"
    assert lines[-1]["num_tokens"] == lines[0]["num_tokens"] + lines[1]["num_tokens"]
    alone = [json.loads(invoke("ppl", tree / name, "-m", model, "--json")) for name in ("a.py", "b.py")]
    assert lines[0]["num_bytes"] == sum(each["num_bytes"] for each in alone)
    bits = sum(each["bits_per_byte"] * each["num_bytes"] for each in alone)
    assert lines[0]["bits_per_byte"] * lines[0]["num_bytes"] == pytest.approx(bits)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "x").write_bytes(b"\0")
    assert "holds no text that can be scored" in str(refused("ppl", tmp_path / "nothing", "-m", model))


def test_lm_says_what_it_needs_where_lm_eval_is_not_installed(model: Path):
    if importlib.util.find_spec("lm_eval") is not None:
        pytest.skip("lm-eval is installed here")
    error = refused("lm", "--tasks", "boolq", "-m", model)
    assert str(error) == "lm_eval is not here, and this needs lm-eval: pip install aquila-lm[lm-eval]"
    assert isinstance(error, ConfigError)
