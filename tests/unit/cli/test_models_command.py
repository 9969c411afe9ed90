"""`aquila models`, `aquila pull`, `aquila verify` as scripts and people see them: output, messages, exit codes."""

import json
import re
import subprocess
import sys

import pytest


def aquila(*arguments, exit_code=0):
    """Runs the command in a process of its own."""
    command = [sys.executable, "-c", "from aquila.cli.main import run; run()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "aquila-7b"
    path.mkdir()
    (path / "pytorch_model.bin").write_bytes(b"weights")
    return path


def test_models_json_is_a_list_scripts_can_use():
    models = json.loads(aquila("models", "--json").stdout)
    by_name = {model["name"]: model for model in models}
    for model in models:
        assert model["num_parameters"] > 0
        assert all(
            version["md5"] is None or re.fullmatch("[0-9a-f]{32}", version["md5"]) for version in model["versions"]
        )
        assert all(version["date"] is None or len(version["date"]) == 10 for version in model["versions"])
        assert model["licence"]["url"].startswith("https://")
        assert model["downloaded"] == []
    assert by_name["aquila-7b"]["versions"][0]["md5"] == "13d39993743e66081640c6245da3db48"
    assert by_name["aquila2-34b"]["aliases"] == ["aquila-33b"]


def test_models_lists_every_name_in_full():
    text = aquila("models").stdout
    assert "aquilacode-py, aquilacode-python" in text
    assert "BAAI Aquila Model License" in text


def test_info_says_what_an_alias_stands_for():
    text = aquila("models", "info", "aquila-33b").stdout
    assert "aquila-33b is another name of aquila2-34b." in text
    assert "never released under that name" in text


def test_info_shows_every_version():
    text = aquila("models", "info", "aquila-7b").stdout
    assert re.search(r"v0\.9 +2023-07-24 +md5 18eac56434db0198494b22b321633785 +Same weights as v0\.8\.", text)
    assert json.loads(aquila("models", "info", "aquila-7b", "--json").stdout)["default_version"] == "v1.0"


def test_pull_shows_the_licence_and_prints_the_path(folder):
    done = aquila("pull", "aquila-7b", "--source-path", str(folder))
    assert "BAAI Aquila Model License, https://huggingface.co/BAAI/AquilaChat-7B" in done.stderr
    assert "you accept it" in done.stderr
    path = done.stdout.strip()
    assert path.endswith("/models/aquila-7b")
    assert json.loads(aquila("models", "info", "aquila-7b", "--json").stdout)["downloaded"] == [path]


def test_quiet_pull_prints_the_path_and_one_line_about_the_licence(folder):
    done = aquila("pull", "aquila-7b", "--quiet", "--source-path", str(folder))
    assert done.stdout.strip().endswith("/models/aquila-7b")
    assert done.stderr.count("\n") == 1


def test_verify_and_rm(folder):
    aquila("pull", "aquila-7b", "--quiet", "--to", str(folder.parent / "to"), "--source-path", str(folder))
    pulled = folder.parent / "to"
    findings = json.loads(aquila("verify", "--json", str(pulled)).stdout)
    assert findings == [{"file": "pytorch_model.bin", "status": "ok", "message": "agrees with aquila.json"}]
    (pulled / "pytorch_model.bin").unlink()
    failed = aquila("verify", str(pulled), exit_code=1)
    assert "pytorch_model.bin: is recorded in aquila.json and missing" in failed.stderr
    aquila("pull", "aquila-7b", "--quiet", "--source-path", str(folder))
    assert aquila("models", "rm", "aquila-7b").stdout.startswith("removed ")


def test_an_unknown_model_is_a_usage_error():
    failed = aquila("pull", "aquilachat-7", exit_code=2)
    assert "did you mean 'aquilachat-7b'" in failed.stderr
    assert failed.stdout == ""
