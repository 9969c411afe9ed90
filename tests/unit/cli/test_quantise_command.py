"""`aquila quantise` and `aquila eval ppl` as typed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.packed import packed_file
from aquila.cli.app import app, command_names
from aquila.errors import ConfigError
from aquila.files import cache_dir
from checkpoint_parts import export, tiny_config, write
from parts import CORPUS, tiny_checkpoint


def invoke(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_quantise_prints_the_file_in_the_cache(tmp_path: Path):
    source = write(export(tiny_config()), tmp_path / "tiny.gguf", "gguf")
    expected = cache_dir() / "packed" / "tiny-w4.aqw"
    assert invoke("quantise", source, "--to", "w4").splitlines() == [str(expected)]
    assert open_checkpoint(expected).format == "packed"


def test_both_spellings_take_the_same_options(tmp_path: Path):
    source = write(export(tiny_config()), tmp_path / "tiny", "hf")
    target = tmp_path / "b.aqw"
    line = json.loads(
        invoke("quantize", source, "--to", "w4", "--head", "w4", "--rounding", "absmax", "--out", target, "--json")
    )
    assert (line["path"], line["format"], line["num_bytes"]) == (str(target), "w4", target.stat().st_size)
    assert packed_file(target).tensors["lm_head.weight"].format == "w4"
    assert "quantise" in command_names()


def test_quantise_keeps_a_file_that_is_there(tmp_path: Path):
    source = write(export(tiny_config()), tmp_path / "tiny", "hf")
    invoke("quantise", source, "--to", "w8")
    with pytest.raises(ConfigError, match=r"tiny-w8\.aqw: exists already; name another file with --out"):
        invoke("quantise", source, "--to", "w8")


def test_verify_reads_a_packed_file(tmp_path: Path):
    source = write(export(tiny_config()), tmp_path / "tiny", "hf")
    invoke("quantise", source, "--to", "w4m", "--out", tmp_path / "a.aqw")
    assert "packed: 21 tensors" in invoke("verify", tmp_path / "a.aqw")


def test_ppl_is_the_same_for_a_model_and_its_exact_copy(tmp_path: Path):
    """8 bits cost next to nothing, fp32 nothing at all."""
    source = tiny_checkpoint(tmp_path / "tiny")
    (tmp_path / "text.py").write_text(CORPUS)
    (tmp_path / "more.py").write_text(CORPUS[:300])
    found = {}
    for name in ("tiny", "f32.aqw", "w8.aqw"):
        if name != "tiny":
            invoke("quantise", source, "--to", name[:-4].lower(), "--out", tmp_path / name)
        arguments = ["eval", "ppl", "-m", tmp_path / name, "--device", "cpu", "--window", "64", "--json"]
        lines = [
            json.loads(line) for line in invoke(*arguments, tmp_path / "text.py", tmp_path / "more.py").splitlines()
        ]
        assert [line["file"] for line in lines] == [str(tmp_path / "text.py"), str(tmp_path / "more.py"), "total"]
        assert lines[2]["num_tokens"] == lines[0]["num_tokens"] + lines[1]["num_tokens"]
        found[name] = lines[2]["bits_per_byte"]
    assert found["f32.aqw"] == pytest.approx(found["tiny"], rel=1e-6)
    assert found["w8.aqw"] == pytest.approx(found["tiny"], rel=0.01)
    assert found["w8.aqw"] != found["tiny"]


def test_ppl_prints_a_line_a_file(tmp_path: Path):
    (tmp_path / "text.py").write_text(CORPUS)
    source = tiny_checkpoint(tmp_path / "tiny")
    (line,) = invoke(
        "eval", "ppl", "-m", source, "--max-tokens", "20", "--device", "cpu", tmp_path / "text.py"
    ).splitlines()
    assert " bits per byte, perplexity " in line
    assert "(19 tokens, " in line


def test_ppl_names_what_is_not_text(tmp_path: Path):
    (tmp_path / "text.py").write_bytes(b"ab\xff")
    with pytest.raises(ConfigError, match=r"text\.py: byte 2 \(0xff\) is not UTF-8"):
        invoke("eval", "ppl", "-m", tiny_checkpoint(tmp_path / "tiny"), tmp_path / "text.py")
