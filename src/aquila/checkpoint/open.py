"""Opens a checkpoint of any format: `open_checkpoint(path)` finds out which it is."""

import dataclasses
from pathlib import Path

from aquila.checkpoint.checkpoint import Checkpoint
from aquila.checkpoint.flagai import read_flagai
from aquila.checkpoint.folder import read_json
from aquila.checkpoint.gguf import read_gguf
from aquila.checkpoint.gguf_file import is_gguf
from aquila.checkpoint.hf import read_hf
from aquila.checkpoint.native import MANIFEST, read_native
from aquila.checkpoint.packed import SUFFIX, is_packed, read_packed
from aquila.checkpoint.run_folder import CHECKPOINTS, RunFolder, is_training_manifest, newest_checkpoint
from aquila.checkpoint.training import read_training
from aquila.errors import CheckpointError

__all__ = ["Checkpoint", "open_checkpoint"]

PULL_RECORD = "aquila.json"  # beside the files of a pulled model: name, licence, chat_template, digests


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a folder (native, Hugging Face, FlagAI, a run, or with one .gguf or .aqw file in it) or a file of one.

    Only headers are read, but they are checked completely: what comes back can be loaded.

    Raises:
        CheckpointError: not a checkpoint, damaged, or its tensors are not those of its config.
        ConfigError: the config describes no model this program knows.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder; give a checkpoint folder, a .gguf or an .aqw file")
    if path.is_file() and (path.suffix == SUFFIX or is_packed(path)):
        return read_packed(path)
    if path.is_file() and not is_gguf(path):
        if path.suffix == ".gguf":
            return read_gguf(path)  # says what is wrong with it
        return open_checkpoint(path.parent)
    folder = path if path.is_dir() else path.parent
    checkpoint = read_gguf(path) if path.is_file() else _open_folder(path)
    if (folder / PULL_RECORD).is_file() and checkpoint.format not in ("native", "packed", "training"):
        record = {**checkpoint.manifest, **read_json(folder / PULL_RECORD)}
        return dataclasses.replace(checkpoint, manifest=record)
    return checkpoint


def _open_folder(path: Path) -> Checkpoint:
    if (path / MANIFEST).is_file():
        return read_training(path) if is_training_manifest(path) else read_native(path)
    if (path / CHECKPOINTS).is_dir() and RunFolder(path).steps():
        return read_training(newest_checkpoint(path))
    if (path / "config.json").is_file():
        raw = read_json(path / "config.json")
        if "model_type" in raw:
            return read_hf(path)
        if "dim" in raw and "n_layers" in raw:
            return read_flagai(path)
        raise CheckpointError(
            f"{path / 'config.json'}: has neither model_type (Hugging Face) nor dim and n_layers (FlagAI), "
            f"only {', '.join(sorted(raw)[:8]) or 'nothing'}; it is not the config of a model"
        )
    files = [*sorted(path.glob("*.gguf")), *sorted(path.glob(f"*{SUFFIX}"))]
    if len(files) == 1:
        return read_packed(files[0]) if files[0].suffix == SUFFIX else read_gguf(files[0])
    names = sorted(entry.name for entry in path.iterdir())
    found = f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "an empty folder"
    kinds = " and ".join(sorted({file.suffix for file in files}))
    advice = f"name one of the {kinds} files" if files else "a checkpoint has a config.json or is a .gguf or .aqw file"
    raise CheckpointError(f"{path}: no checkpoint recognised, found {found}; {advice}")
