"""`aquila lora` as typed: merge, take out again, look at."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from adapter_parts import adapter_tensors, flagai_adapter, random_adapter, write_adapter
from aquila.checkpoint.adapter import read_adapter
from aquila.checkpoint.convert import convert
from aquila.checkpoint.open import Checkpoint, open_checkpoint
from aquila.checkpoint.tensors import DTYPES, from_array
from aquila.cli.lora import app
from aquila.errors import AquilaError, CheckpointError, ConfigError
from checkpoint_parts import assert_equal, export, tiny_config, tiny_tokenizer, write

CONFIG = tiny_config()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    what = export(CONFIG, tokenizer=tiny_tokenizer(), record={"name": "base", "licence": "Apache-2.0", "version": "1"})
    return write(what, tmp_path_factory.mktemp("lora") / "base", "native")


def run(*arguments: str | Path) -> str:
    return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False).stdout


def values(checkpoint: Checkpoint, name: str) -> np.ndarray:
    return checkpoint.tensors[name].numpy(DTYPES["fp32"])


def test_merge_adds_the_product_and_unmerge_takes_it_out(base: Path, tmp_path: Path):
    folder = random_adapter(tmp_path / "a", CONFIG, ("q_proj", "down_proj"))
    line = json.loads(run("merge", base, folder, tmp_path / "merged", "--json"))
    assert (line["path"], line["num_matrices"]) == (str(tmp_path / "merged"), 4)
    plain, merged = open_checkpoint(base), open_checkpoint(tmp_path / "merged")
    adapter = read_adapter(folder, CONFIG)
    for name in plain.tensors:
        expected = values(plain, name)
        pair = adapter.matrices.get(name.removesuffix(".weight"))
        if pair is not None:
            expected = expected + 2.0 * (pair.up.numpy() @ pair.down.numpy())
        np.testing.assert_allclose(values(merged, name), expected, rtol=0, atol=1e-6, err_msg=name)
    record = {key: merged.manifest.get(key) for key in ("name", "licence", "version")}
    assert record == {"name": "merged", "licence": "Apache-2.0", "version": None}
    assert merged.load_tokenizer().vocab_size == tiny_tokenizer().vocab_size
    run("unmerge", tmp_path / "merged", folder, tmp_path / "back")
    back = open_checkpoint(tmp_path / "back")
    for name in plain.tensors:
        np.testing.assert_allclose(values(back, name), values(plain, name), rtol=0, atol=1e-6, err_msg=name)


def test_other_formats_are_written_and_quantised_bases_are_widened(base: Path, tmp_path: Path):
    gguf = write(export(CONFIG, tokenizer=tiny_tokenizer()), tmp_path / "base.gguf", "gguf", "q8_0")
    folder = random_adapter(tmp_path / "a", CONFIG)
    run("merge", gguf, folder, tmp_path / "merged.gguf", "--to", "gguf")
    run("merge", gguf, folder, tmp_path / "merged-hf", "--to", "hf", "--dtype", "fp32")
    merged, exact = open_checkpoint(tmp_path / "merged.gguf"), open_checkpoint(tmp_path / "merged-hf")
    assert merged.dtype == "fp16"
    for name in merged.tensors:
        np.testing.assert_allclose(values(merged, name), values(exact, name), rtol=1e-3, atol=1e-3, err_msg=name)


def test_a_merged_model_can_be_quantised(base: Path, tmp_path: Path):
    """As converting the merged model does it."""
    folder = random_adapter(tmp_path / "a", CONFIG)
    run("merge", base, folder, tmp_path / "one.gguf", "--to", "gguf", "--quantize", "q8_0")
    run("merge", base, folder, tmp_path / "merged")
    convert(tmp_path / "merged", tmp_path / "two.gguf", to="gguf", quantize="q8_0")
    assert_equal(open_checkpoint(tmp_path / "one.gguf").tensors, open_checkpoint(tmp_path / "two.gguf").tensors)


def test_flagais_adapter_is_merged_as_the_same_adapter(base: Path, tmp_path: Path):
    targets = ("q_proj", "k_proj", "v_proj")
    run("merge", base, flagai_adapter(tmp_path / "flagai", CONFIG), tmp_path / "one", "--to", "flagai")
    run("merge", base, random_adapter(tmp_path / "peft", CONFIG, targets), tmp_path / "two")
    assert_equal(open_checkpoint(tmp_path / "one").tensors, open_checkpoint(tmp_path / "two").tensors)


def test_info_says_what_an_adapter_is(base: Path, tmp_path: Path):
    folder = random_adapter(tmp_path / "a", CONFIG, ("q_proj", "v_proj"), dtype="bf16")
    facts = json.loads(run("info", folder, "--model", base, "--json"))
    assert facts == {
        "path": str(folder),
        "format": "peft",
        "base_model": "tiny",
        "r": 4,
        "alpha": 8.0,
        "scale": 2.0,
        "targets": ["q_proj", "v_proj"],
        "num_layers": 2,
        "num_parameters": 2 * 4 * (32 + 32 + 32 + 16),
        "dtype": "bfloat16",
        "num_bytes": (folder / "adapter_model.safetensors").stat().st_size,
        "fits": str(base),
    }
    text = run("info", flagai_adapter(tmp_path / "flagai", CONFIG))
    assert "LoRA in the format of FlagAI" in text
    assert "made for  not stated" in text
    assert "adapts    k_proj, q_proj, v_proj in 2 layers" in text


def test_what_cannot_be_merged_is_refused_and_leaves_nothing(base: Path, tmp_path: Path):
    folder = random_adapter(tmp_path / "a", CONFIG)
    other = random_adapter(tmp_path / "other", tiny_config(hidden_size=64, head_dim=8))
    tensors = adapter_tensors(CONFIG)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    tensors[name] = from_array(np.full(tensors[name].shape, np.inf, np.float32))
    infinite = write_adapter(tmp_path / "infinite", tensors)
    there = {each.name for each in tmp_path.iterdir()}
    cases: tuple[tuple[Path, Path, str, type[AquilaError], str], ...] = (
        (other, tmp_path / "m", "native", CheckpointError, "its shapes are not those of rank 4 on this one"),
        (tmp_path / "none", tmp_path / "m", "native", CheckpointError, "is not a folder; give the one that holds"),
        (folder, base, "native", ConfigError, "base: exists already; name another destination"),
        (folder, tmp_path / "m", "gguf", ConfigError, "let the destination end in .gguf"),
        (infinite, tmp_path / "m", "native", CheckpointError, r"layers\.1\.mlp\.up_proj: the adapter's values are not"),
    )
    for adapter, destination, to, error, message in cases:
        with pytest.raises(error, match=message):
            run("merge", base, adapter, destination, "--to", to)
    assert {each.name for each in tmp_path.iterdir()} == there
    with pytest.raises(CheckpointError, match="its shapes are not those"):
        run("info", other, "--model", base)
