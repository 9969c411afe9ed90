"""Reads the model out of a training checkpoint, without torch: `aquila convert RUN_DIR OUT --to hf` and `generate -m
RUN_DIR`.

The files are those of torch's distributed checkpoints in safetensors form: each rank's file holds its pieces of the
tensors, and `DCP_SHARDING_INFO` in the header says at which offsets a piece begins. Source:
torch.distributed.checkpoint.hf_storage. Layout and manifest: run_folder.py. Weights are named `model.` + canonical
name, what the optimizer keeps `optimizer.` + name.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aquila.checkpoint.checkpoint import Checkpoint, require_complete
from aquila.checkpoint.folder import parse_json, read_json
from aquila.checkpoint.run_folder import read_manifest
from aquila.checkpoint.safetensors_file import read_safetensors
from aquila.checkpoint.tensors import LazyTensor
from aquila.errors import CheckpointError
from aquila.model.config import from_hugging_face
from aquila.tokenizer.load import has_tokenizer_files, load_tokenizer

MODEL = "model."  # before the names of weights
OPTIMIZER = "optimizer."
MODEL_FILES = "model-*.safetensors"
Piece = tuple[tuple[int, ...], LazyTensor]  # offsets, rows


def read_training(path: Path) -> Checkpoint:
    """Opens the folder of one step (`RUN/checkpoints/step-00001000`) as a checkpoint to run or convert.

    Raises:
        CheckpointError: it is damaged, or holds an adapter only.
    """
    manifest = read_manifest(path)
    if manifest["adapter_only"]:
        raise CheckpointError(
            f"{path}: the run trained an adapter, so its checkpoints hold no whole model; use the adapter that the run "
            "exported, or merge it with `aquila lora merge`"
        )
    config = from_hugging_face(read_json(path / "config.json"), str(path / "config.json"))
    found = {name.removeprefix(MODEL): tensor for name, tensor in read_pieces(path, MODEL_FILES).items()}
    tensors = require_complete(found, config, path)
    record = {**manifest["record"], "source": str(path)}
    return Checkpoint(
        path, "training", config, tensors, record, has_tokenizer_files(path), lambda: load_tokenizer(path)
    )


def read_pieces(path: Path, pattern: str) -> dict[str, LazyTensor]:
    """The tensors whose pieces lie in the files of a folder that match `pattern`."""
    pieces: dict[str, dict[tuple[int, ...], LazyTensor]] = {}
    for file in sorted(path.glob(pattern)):
        offsets = _offsets(file)
        for name, tensor in read_safetensors(file).items():
            start = tuple(offsets.get(name, {}).get("saved_offsets", [0] * len(tensor.shape)))
            pieces.setdefault(name, {})[start] = tensor
    return {name: _joined(f"{path}: tensor {name!r}", list(parts.items())) for name, parts in pieces.items()}


def _offsets(file: Path) -> dict[str, dict[str, list[int]]]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = parse_json(opened.read(length), f"{file} (header)")
    return json.loads(header.get("__metadata__", {}).get("DCP_SHARDING_INFO", "{}"))


def _joined(where: str, pieces: Sequence[Piece]) -> LazyTensor:
    """One tensor from pieces that must cover it. Overlap cannot be: the offsets of two pieces differ."""
    first = pieces[0][1]
    if len(pieces) == 1 and not any(pieces[0][0]):
        return first
    dimensions = range(len(first.shape))
    shape = tuple(max(start[i] + piece.shape[i] for start, piece in pieces) for i in dimensions)
    if sum(piece.num_elements for _, piece in pieces) != math.prod(shape):
        raise CheckpointError(
            f"{where}: its pieces do not add up to the shape {list(shape)}; the checkpoint is damaged"
        )

    def read(begin: int, end: int) -> np.ndarray:
        out = np.empty((min(end, shape[0]) - begin, *shape[1:]), first.dtype)
        for start, piece in pieces:
            low, high = max(begin, start[0]), min(end, start[0] + piece.shape[0])
            if low < high:
                inner = tuple(slice(start[i], start[i] + piece.shape[i]) for i in dimensions[1:])
                out[(slice(low - begin, high - begin), *inner)] = piece.read(low - start[0], high - start[0])
        return out

    return LazyTensor(shape, first.dtype, read)
