"""Training checkpoints of several ranks, read as one model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from aquila.checkpoint.convert import convert
from aquila.checkpoint.folder import write_json
from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.run_folder import RunFolder
from aquila.checkpoint.tensors import LazyTensor
from aquila.errors import CheckpointError
from aquila.files import sha256_file
from aquila.model.config import ModelConfig, to_hugging_face
from checkpoint_parts import assert_equal, random_tensors, tiny_config, tiny_tokenizer

Piece = tuple[str, np.ndarray, list[int]]  # name, values, offsets


def write_pieces(file: Path, pieces: list[Piece]) -> None:
    """A file as torch's distributed checkpoints have it."""
    offsets = {name: {"saved_offsets": start} for name, _, start in pieces}
    metadata = {"DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"}
    save_file({name: values for name, values, _ in pieces}, file, metadata)


def cut(tensors: Mapping[str, LazyTensor], places: int) -> list[list[Piece]]:
    """The files of `places` ranks: matrices cut by rows, the left halves in one file and the right ones in another."""
    files: list[list[Piece]] = [[] for _ in range(2 * places)]
    for name, tensor in tensors.items():
        values = tensor.numpy()
        if values.ndim == 1:
            files[0].append((f"model.{name}", values, [0]))
            continue
        half = values.shape[1] // 2
        for rank, rows in enumerate(np.array_split(np.arange(values.shape[0]), places)):
            for side, columns in enumerate((slice(0, half), slice(half, None))):
                piece = np.ascontiguousarray(values[rows, columns])
                files[2 * rank + side].append((f"model.{name}", piece, [int(rows[0]), side * half]))
    return files


def training_run(run_dir: Path, config: ModelConfig, tensors: Mapping[str, LazyTensor], places: int = 3) -> Path:
    folder = RunFolder(run_dir)
    temporary = folder.temporary(7)
    temporary.mkdir(parents=True)
    for number, pieces in enumerate(cut(tensors, places)):
        write_pieces(temporary / f"model-{number:03d}-rank-00000.safetensors", pieces)
    moments = [("optimizer.model.norm.weight.exp_avg", np.zeros(3, np.float32), [0])]
    write_pieces(temporary / "optimizer-001-rank-00000.safetensors", moments)
    write_json(temporary / "config.json", to_hugging_face(config, "float32"))
    tiny_tokenizer().save(temporary)
    files = {
        file.name: {"size": file.stat().st_size, "sha256": sha256_file(file)} for file in sorted(temporary.iterdir())
    }
    manifest: dict[str, Any] = {"step": 7, "adapter_only": False, "record": {"name": "mine"}, "files": files}
    return folder.publish(7, manifest)


@pytest.mark.parametrize("places", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_pieces_make_up_the_model(tmp_path: Path, places: int, tied: bool):
    config = tiny_config(tie_word_embeddings=tied)
    tensors = random_tensors(config)
    training_run(tmp_path / "run", config, tensors, places)
    checkpoint = open_checkpoint(tmp_path / "run")
    assert checkpoint.format == "training"
    assert checkpoint.manifest["name"] == "mine"
    assert_equal(checkpoint.tensors, tensors)
    assert checkpoint.load_tokenizer().decode([70]) == tiny_tokenizer().decode([70])


def test_rows_are_read_across_pieces(tmp_path: Path):
    config = tiny_config()
    tensors = random_tensors(config)
    step = training_run(tmp_path / "run", config, tensors)
    found = open_checkpoint(step).tensors["model.embed_tokens.weight"]
    whole = tensors["model.embed_tokens.weight"].numpy()
    for start, stop in ((0, 1), (100, 120), (105, 320), (319, 400)):
        np.testing.assert_array_equal(found.read(start, stop), whole[start:stop])


def test_a_run_becomes_a_hugging_face_folder(tmp_path: Path):
    config = tiny_config()
    tensors = random_tensors(config)
    training_run(tmp_path / "run", config, tensors)
    convert(tmp_path / "run", tmp_path / "hf", to="hf")
    assert_equal(open_checkpoint(tmp_path / "hf").tensors, tensors)


def test_a_piece_that_is_missing_is_an_error(tmp_path: Path):
    config = tiny_config()
    tensors = random_tensors(config)
    step = training_run(tmp_path / "run", config, tensors)
    manifest = json.loads((step / "manifest.json").read_text(encoding="utf-8"))
    lost = next(file for file in sorted(manifest["files"]) if file.startswith("model-"))
    (step / lost).unlink()
    with pytest.raises(CheckpointError, match=r"this run has no whole checkpoint to load; .* absent"):
        open_checkpoint(tmp_path / "run")


def test_an_adapter_is_not_a_model(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.temporary(1).mkdir(parents=True)
    folder.publish(1, {"step": 1, "adapter_only": True, "record": {}, "files": {}})
    with pytest.raises(CheckpointError, match="the run trained an adapter, so its checkpoints hold no whole model"):
        open_checkpoint(tmp_path)
