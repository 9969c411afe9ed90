"""`aquila doctor --model`: what limits would give, beside what `aquila generate` then does."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aquila.checkpoint.packed_writer import quantise
from aquila.cli import doctor_model
from aquila.cli.doctor import doctor
from aquila.errors import AquilaError, CheckpointError, ConfigError
from aquila.generate import weight_rates
from aquila.kernels.native import usable_kernels
from aquila.model.config import ModelConfig
from parts import tiny_checkpoint

pytestmark = pytest.mark.skipif(not usable_kernels(), reason="the native kernels are not built")

MIB = 1 << 20
AQUILA = str(Path(sys.executable).with_name("aquila"))
SHAPE = {"num_hidden_layers": 10, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
app = typer.Typer()
app.command()(doctor)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """37 million weights in 16 bits."""
    folder = tmp_path_factory.mktemp("model")
    source = tiny_checkpoint(folder / "plain", **SHAPE, max_position_embeddings=4096)
    return quantise(source, folder / "model.aqw", to="f16")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures too briefly to mean much."""
    monkeypatch.setattr(weight_rates, "SECONDS", 0.01)
    monkeypatch.setattr(doctor_model, "_TEST_FILE_BYTES", weight_rates.MIN_FILE_BYTES)


def ask(*arguments: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["--json", "--model", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_forecast_is_the_plan_that_generate_makes(model: Path):
    """Both commands in processes of their own, as their plans begin with what the process holds."""
    limit = ("--model", model, "--memory-limit", "150MiB")
    asked = subprocess.run([AQUILA, "doctor", "--json", *limit], capture_output=True, check=True)
    report = json.loads(asked.stdout)
    (line,) = [line for line in report["limits"] if line["limit_bytes"] == report["asked_bytes"] == 150 * MIB]
    text = ("--max-new-tokens", "1", "--temperature", "0", "--json", "-q", "def")
    done = subprocess.run([AQUILA, "generate", *limit, *text], capture_output=True, check=True)
    plan = json.loads(done.stdout.splitlines()[-1])["plan"]
    assert abs(line["pinned_layers"] - len(plan["pinned_layers"])) <= 1
    assert line["kv_type"] == plan["kv_type"]
    assert line["streamed_bytes"] > 0
    assert line["read_bytes"] == plan["pinned_bytes"] + plan["streamed_bytes"]
    refused = subprocess.run([AQUILA, "generate", *limit[:3], "20MiB", *text], capture_output=True, check=False)
    smallest = re.search(rb"the smallest that works is (\d+)MiB", refused.stderr)
    assert smallest
    assert 0 <= report["smallest_limit_bytes"] // MIB - int(smallest[1]) <= 8


@pytest.mark.usefixtures("quick")
def test_the_report(model: Path):
    report = ask(model)
    limits = report["limits"]
    assert [line["limit_bytes"] for line in limits] == sorted({line["limit_bytes"] for line in limits})
    assert limits[0]["limit_bytes"] == report["smallest_limit_bytes"]
    assert limits[-1]["pinned_share"] == 1.0
    assert limits[-1]["context"] == report["full_context"] == 4096
    assert report["weights"] | {"num_bytes": 0} == {
        "format": "f16",
        "num_bytes": 0,
        "file": str(model),
        "packed": True,
    }
    assert report["rates"]["kernels"] == usable_kernels()[0]
    rates = report["rates"]
    for line in limits:
        seconds = max(line["read_bytes"] / rates["memory"], line["streamed_bytes"] / rates["disk"])
        assert line["tokens_per_second"] == pytest.approx(1 / seconds)
        assert line["pinned_share"] == pytest.approx(1 - line["streamed_bytes"] / line["read_bytes"])


@pytest.mark.usefixtures("quick")
def test_a_model_that_is_not_here_is_answered_for_from_its_shape(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weight_rates, "_MEMORY_BYTES", 1 << 20)
    report = ask("aquila2-7b", "--quantize", "w4", "--memory-limit", "3GiB")
    assert report["path"] is None
    assert report["weights"]["format"] == "w4, w8"
    (line,) = [line for line in report["limits"] if line["limit_bytes"] == 3 << 30]
    assert 0.35 < line["pinned_share"] < 0.6  # less where this process holds torch
    assert line["context"] in (1024, 1280)
    assert line["full_context"] == 2048


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("width", [80, 60])
def test_the_page_fits(model: Path, monkeypatch: pytest.MonkeyPatch, width: int):
    monkeypatch.setenv("COLUMNS", str(width))
    result = CliRunner().invoke(app, ["--model", str(model), "--quantize", "w8"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(len(line) for line in lines if "/" not in line) <= width
    assert "…" not in result.stdout
    assert re.search(r"^ *[\d.]+ MiB +100% +4096 +f16 +nothing +[\d.e+]+( +memory)?$", result.stdout, re.MULTILINE)
    assert "packed on first use into" in result.stdout


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory-limit", "20MiB"], "memory_limit: 20 MiB is too little for this model; the smallest that works is"),
        (["--memory-limit", "0"], "memory_limit: 0 leaves no memory at all"),
        (["--memory-limit", "1<<60"], "memory_limit: .* is more than the"),
        (["--quantize", "int4"], "quantize: 'int4' is not one of w4, w4m, w8"),
        (["--max-context", "5000"], "max_context: 5000 is not between 1 and 4096"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(model: Path, options: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        ask(model, *options)


@pytest.mark.usefixtures("quick")
@pytest.mark.skipif(sys.platform != "linux", reason="files without a name are read through /proc")
def test_the_file_that_is_written_to_be_read_has_no_name(tmp_path: Path):
    """So that no kill leaves it behind."""
    subject = doctor_model._Subject("m", ModelConfig.model_validate(weight_rates._DISK_SHAPE), None, None, {}, 0)
    subject = dataclasses.replace(subject, packed=tmp_path / "m.aqw")
    with doctor_model._readable_file(subject) as file:
        assert file.stat().st_dev == tmp_path.stat().st_dev
        assert file.stat().st_size == weight_rates.MIN_FILE_BYTES
        assert weight_rates._disk_rate(doctor_model.native_module(), file, 1 << 20, 4)[0] > 0
        assert list(tmp_path.iterdir()) == []


def test_a_model_that_nobody_knows():
    with pytest.raises(AquilaError, match="'smollm3' is neither a path nor a known model"):
        ask("smollm3")


def test_a_file_that_is_too_small_to_tell(tmp_path: Path):
    (tmp_path / "small").write_bytes(bytes(1000))
    with pytest.raises(CheckpointError, match="small: its 1000 bytes are too few"):
        weight_rates._disk_rate(doctor_model.native_module(), tmp_path / "small", 1 << 20, 4)
