"""`aquila eval humaneval`, `humaneval-x` and `export` as they are typed: killed, interrupted, resumed, refused."""

import gzip
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aquila.errors import SandboxError
from aquila.evaluate.export import FORMATS, export_samples
from aquila.evaluate.samples_file import read_samples
from aquila.evaluate.tasks import read_benchmark
from aquila.sandbox.isolation import find_isolation
from completion_server import completion_server
from parts import shared_data, tiny_checkpoint

pytestmark = pytest.mark.e2e

TASKS, N = 20, 4
COMMAND = ("--limit", str(TASKS), "-n", str(N), "-T", "0.8", "--top-p", "0.95", "--max-new-tokens", "24")
COMMAND += ("--no-verdict-cache", "-k", "1,4", "--json")
Rows = dict[tuple[str, int], dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def walls() -> None:
    try:
        find_isolation()
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def data() -> Path:
    return shared_data("humaneval")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With room for HumanEval's prompts in its few words."""
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny", max_position_embeddings=2048)


def rows(run: Path, name: str) -> Rows:
    """Lines of a run, without what another run would measure anew."""
    measured = ("seconds", "peak_bytes", "cached")
    lines = [json.loads(line) for line in (run / name).read_text(encoding="utf-8").splitlines()]
    found = {(line["task_id"], line["i"]): {k: v for k, v in line.items() if k not in measured} for line in lines}
    assert len(found) == len(lines), "a sample was drawn or judged twice"
    return found


def report(run: Path) -> dict[str, Any]:
    found = json.loads((run / "report.json").read_text())
    for each in found["runs"]:
        del each["timing"]
    return found


def count(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def end_when(process: subprocess.Popen[bytes], number: signal.Signals, reached: Callable[[], bool]) -> bytes:
    """Signals a command as soon as something is reached; gives its stderr."""
    while not reached():
        try:
            process.wait(0.002)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the command ended by itself, with {process.returncode}: {process.communicate()}")
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    return message


def test_a_run_that_is_killed_twice_and_interrupted_is_the_uninterrupted_one(aquila, start, model, data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ours = ("eval", "humaneval", "-m", model, "--data", data, *COMMAND)
    last = json.loads(aquila(*ours, "--out", whole).stdout.splitlines()[-1])
    assert last["runs"][0]["num_judged"] == TASKS * N
    assert set(last["runs"][0]["pass_at_k"]) == {"1", "4"}
    samples, verdicts = killed / "samples.jsonl", killed / "verdicts.jsonl"

    process = start(*ours, "--out", killed)
    end_when(process, signal.SIGKILL, lambda: count(samples) > 0)
    assert process.returncode == -signal.SIGKILL
    assert 0 < count(samples) < TASKS * N
    with samples.open("ab") as file:
        file.write(b'{"task_id": "HumanEval/0", "i"')  # what a kill within a write leaves

    process = start(*ours, "--out", killed)
    message = end_when(process, signal.SIGINT, lambda: 0 < count(verdicts) < TASKS * N)
    assert process.returncode == 130
    assert f"interrupted: what is finished is in {killed}; the same command goes on from there" in message.decode()

    process = start(*ours, "--out", killed)
    end_when(process, signal.SIGKILL, lambda: count(samples) == TASKS * N)
    assert count(verdicts) < TASKS * N, "it was killed while it judged"

    aquila(*ours, "--out", killed)
    assert rows(killed, "samples.jsonl") == rows(whole, "samples.jsonl")
    assert rows(killed, "verdicts.jsonl") == rows(whole, "verdicts.jsonl")
    assert report(killed) == report(whole)
    refused = aquila(*ours, "--out", killed, "--seed", "1", exit_code=2).stderr.decode()
    assert f"{killed} is a run with sampling.seed 0, not 1; give the same to go on with it" in refused


def test_a_server_that_stops_halfway_costs_nothing_that_was_finished(aquila, data, tmp_path):
    ours = ("eval", "humaneval", "--data", data, "--limit", "6", "--out", tmp_path / "run", "--json")
    solutions = read_benchmark("humaneval", data).tasks.values()
    known = {task.prompt.removesuffix("\n"): "\n" + task.canonical_solution for task in solutions}
    with completion_server() as server:
        server.answer = lambda body: known[body["prompt"]] + "\nprint('and on')\n"
        server.fail = lambda number: (400, {"error": {"message": "the model is gone"}}) if number > 4 else None
        url = ("--url", server.url, "--concurrent", "1")
        refused = aquila(*ours, *url, exit_code=1).stderr.decode()
        assert f"{server.url}/v1/completions: it says 400 the model is gone; mend what it names" in refused
        assert count(tmp_path / "run" / "samples.jsonl") == 3
    with completion_server() as server:  # elsewhere now
        server.answer = lambda body: known[body["prompt"]]
        last = json.loads(aquila(*ours, "--url", server.url).stdout.splitlines()[-1])
        assert len([path for path, _, _ in server.bodies if path == "/v1/completions"]) == 3
    assert last["runs"][0]["pass_at_k"]["1"]["value"] == 1.0
    assert last["runs"][0]["model"]["source"] == "url"


def test_languages_and_temperatures_have_a_folder_each_and_no_tools_no_score(aquila, data, tmp_path):
    solutions = read_benchmark("humaneval-x", data, "js").tasks.values()
    known = {task.prompt.removesuffix("\n"): "\n" + task.canonical_solution for task in solutions}
    broken = tmp_path / "bin" / "go"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no toolchain >&2\nexit 1\n")
    broken.chmod(0o755)
    with completion_server() as server:
        server.answer = lambda body: known.get(body["prompt"], "\n    return None\n")
        done = aquila(
            *("eval", "humaneval-x", "--languages", "python,js,go", "--url", server.url, "--data", data),
            *("--limit", "2", "-n", "1", "-T", "0.2,0.8", "--out", tmp_path / "run", "--json"),
            PATH=f"{broken.parent}:{os.environ['PATH']}",
        )
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["skipped"] == {"go": f"{broken} does not run: no toolchain"}
    assert f"go: skipped: {broken} does not run" in done.stderr.decode()
    found = {Path(run["dir"]).name: run["pass_at_k"]["1"]["value"] for run in last["runs"]}
    assert found == {"python-t0.2": 0.0, "python-t0.8": 0.0, "js-t0.2": 1.0, "js-t0.8": 1.0}
    assert all((tmp_path / "run" / name / "report.json").is_file() for name in (*found, "."))


def test_samples_of_somebody_else_are_judged_and_written_in_every_format(aquila, data, tmp_path):
    benchmark = read_benchmark("humaneval", data)
    tasks = list(benchmark.tasks.values())[:3]
    pairs = [(task, text) for task in tasks for text in (task.canonical_solution, "    return 'no'\n")]
    file, run = tmp_path / "theirs.jsonl", tmp_path / "run"
    lines = [json.dumps({"task_id": task.task_id, "completion": text}) for task, text in pairs]
    file.write_text("\n".join(lines))
    ours = ("eval", "humaneval", "--samples", file, "--data", data)
    text = aquila(*ours, "--out", run, "-k", "1,2").stdout.decode()
    assert "pass@1 50.0 %" in text
    assert "pass@2 100.0 %" in text
    other = json.loads(aquila(*ours, "--out", tmp_path / "other", "--json").stdout.splitlines()[-1])["runs"][0]
    assert other["model"]["source"] == "file"
    assert other["timing"]["num_cached"] == 6, "another run of the same programs asks no judge"
    assert (other["statuses"]["passed"], other["statuses"]["wrong"]) == (3, 3)
    done = aquila("eval", "export", run, tmp_path / "openai.jsonl.gz", "--format", "openai", "--data", data)
    assert b"6 samples" in done.stdout
    for form in FORMATS:
        written = tmp_path / f"{form}.jsonl.gz"
        assert export_samples(run, written, form, data) == 6
        found = read_samples(written, benchmark)
        programs = [("" if each.whole else benchmark.tasks[each.task_id].prompt) + each.text for each in found]
        assert programs == [task.prompt + text for task, text in pairs]
    assert len(json.loads(gzip.decompress((tmp_path / "bigcode.jsonl.gz").read_bytes()))) == len(benchmark.tasks)
    refused = aquila("eval", "export", run, tmp_path / "x", "--format", "excel", exit_code=2).stderr
    assert b"there are openai, codegeex, evalplus, bigcode" in refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("humaneval -n 20", "20 greedy samples would all be the same; give a temperature, or n 1"),
        ("humaneval --preset codec", "--preset 'codec' is unknown; did you mean 'codex'?"),
        ("humaneval --prompt-style bar", "--prompt-style 'bar' is unknown; did you mean 'bare'?"),
        ("humaneval --url http://a --samples b", "--url and --samples were both given"),
        ("humaneval --url a", "--url 'a': give the address of a server"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_model_is_loaded(aquila, options, message):
    assert message in aquila("eval", *options.split(), exit_code=2).stderr.decode()
