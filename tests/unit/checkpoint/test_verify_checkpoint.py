"""What verification finds."""

import json
from pathlib import Path

import numpy as np
import pytest

from aquila.checkpoint.checkpoint import Export
from aquila.checkpoint.tensors import from_array
from aquila.checkpoint.verify import verify_checkpoint
from checkpoint_parts import export, random_tensors, tiny_config, tiny_tokenizer, write


@pytest.mark.parametrize("kind", ["native", "hf", "flagai", "gguf"])
def test_a_sound_checkpoint_has_no_findings(tmp_path: Path, kind: str):
    path = write(export(tiny_config(), tokenizer=tiny_tokenizer()), tmp_path / "a", kind)
    report = verify_checkpoint(path)
    assert report.findings == ()
    assert (report.format, report.num_tensors) == (kind, len(random_tensors(tiny_config())))
    assert (report.num_digests > 0) == (kind == "native")


def test_a_flipped_bit_is_found_by_its_digest(tmp_path: Path):
    """One bit of one weight: nothing else would ever notice."""
    path = write(export(tiny_config()), tmp_path / "a", "native")
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (path / "model.safetensors").write_bytes(content)
    (finding,) = verify_checkpoint(path).findings
    assert "model.safetensors: sha256 is" in finding


def test_numbers_that_are_none_are_named(tmp_path: Path):
    tensors = random_tensors(tiny_config())
    values = tensors["model.layers.1.mlp.up_proj.weight"].numpy()
    values[3, :2] = np.nan, np.inf
    tensors["model.layers.1.mlp.up_proj.weight"] = from_array(values)
    path = write(Export(tiny_config(), tensors, "bf16"), tmp_path / "a", "hf")
    (finding,) = verify_checkpoint(path).findings
    assert "NaN or infinite values in 1 tensors: model.layers.1.mlp.up_proj.weight (2 of 3072)" in finding


@pytest.mark.parametrize("files", [[], {"model.safetensors": "digest"}])
def test_a_damaged_record_is_a_finding(tmp_path: Path, files: object):
    path = write(export(tiny_config()), tmp_path / "a", "hf")
    (path / "aquila.json").write_text(json.dumps({"name": "tiny", "files": files}))
    (finding,) = verify_checkpoint(path).findings
    assert "the record of its files is damaged" in finding


def test_a_pulled_file_is_compared_with_its_record(tmp_path: Path):
    path = write(export(tiny_config()), tmp_path / "a", "hf")
    files = {"model.safetensors": {"size": 1, "sha256": "0" * 64}, "gone.txt": {"size": 1, "sha256": ""}}
    (path / "aquila.json").write_text(json.dumps({"name": "tiny", "files": files}))
    wrong, absent = verify_checkpoint(path).findings
    assert "recorded 0000" in wrong
    assert "gone.txt: is recorded but absent" in absent


def test_what_cannot_be_opened_is_a_finding_too(tmp_path: Path):
    report = verify_checkpoint(tmp_path)
    assert report.findings
    assert "no checkpoint recognised" in report.findings[0]
