"""`aquila convert` as typed."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from aquila.checkpoint.open import open_checkpoint
from aquila.cli.convert import convert
from aquila.errors import ConfigError
from checkpoint_parts import export, tiny_config, write

app = typer.Typer()
app.command()(convert)


def test_convert_writes_the_checkpoint_and_one_line_of_json(tmp_path: Path):
    write(export(tiny_config()), tmp_path / "source", "hf")
    arguments = [str(tmp_path / "source"), str(tmp_path / "a.gguf"), "--to", "gguf", "--quantize", "q8_0", "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    line = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (line["path"], line["format"]) == (str(tmp_path / "a.gguf"), "gguf")
    assert line["num_bytes"] == (tmp_path / "a.gguf").stat().st_size
    assert open_checkpoint(tmp_path / "a.gguf").format == "gguf"


def test_convert_names_a_source_that_is_nothing(tmp_path: Path):
    with pytest.raises(ConfigError, match="neither a path nor a known model"):
        CliRunner().invoke(app, ["no-such-model", str(tmp_path / "a"), "--to", "hf"], catch_exceptions=False)
