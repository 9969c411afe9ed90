"""Training checkpoints as models that other commands load: native or Hugging Face folders, one a save or one a run.

The weights are read back from the published files, a few rows at a time, so an export takes no memory of its own and
gathers nothing over the network. A run that trained an adapter gives an adapter, in the form of PEFT.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from aquila.checkpoint.adapter_writer import AdapterSettings, trained_pairs, write_adapter
from aquila.checkpoint.convert import convert
from aquila.checkpoint.folder import read_json
from aquila.checkpoint.run_folder import RunFolder, newest_checkpoint, read_manifest
from aquila.checkpoint.training import MODEL, MODEL_FILES, read_pieces
from aquila.files import atomic_write
from aquila.model.config import from_hugging_face

EXPORTS = "exports"
_MODEL, _ADAPTER = "model", "adapter"  # folders of a finished run
_MARK = ".exported"  # names the checkpoint that they were made from
_OWN = re.compile(r"(\.?)(step-\d{8,})-(?:native|hf|adapter)(?:\..+)?")  # hidden: cut short


def export_checkpoint(checkpoint: Path, to: str) -> Path:
    """Writes `RUN/checkpoints/step-N` as `RUN/exports/step-N-TO`, and removes exports whose checkpoint is gone.

    Args:
        checkpoint: the folder of one step.
        to: `native` or `hf`; an adapter has one form only.

    Raises:
        CheckpointError: it cannot be read, or there is no room.
    """
    run_dir = checkpoint.parent.parent
    manifest = read_manifest(checkpoint)
    destination = run_dir / EXPORTS / f"{checkpoint.name}-{_ADAPTER if manifest['adapter_only'] else to}"
    if not destination.exists():
        destination.parent.mkdir(exist_ok=True)
        _write(checkpoint, manifest, destination, to)
    kept = {f"step-{step:08d}" for step in RunFolder(run_dir).steps()}
    for folder in destination.parent.iterdir():
        own = _OWN.fullmatch(folder.name)
        if own is not None and (own[1] or own[2] not in kept):
            shutil.rmtree(folder, ignore_errors=True)
    return destination


def export_run(run_dir: Path) -> Path:
    """Writes the newest checkpoint of a run as `RUN/model`, in the native form, or its adapter as `RUN/adapter`.

    What an earlier end of the run left there is replaced. `RUN/.exported` then says which checkpoint it is.
    """
    checkpoint = newest_checkpoint(run_dir)
    manifest = read_manifest(checkpoint)
    destination = run_dir / (_ADAPTER if manifest["adapter_only"] else _MODEL)
    (run_dir / _MARK).unlink(missing_ok=True)
    fresh, old = (run_dir / f".{destination.name}.{state}" for state in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    _write(checkpoint, manifest, fresh, "native")
    if destination.exists():
        destination.rename(old)
    fresh.rename(destination)
    shutil.rmtree(old, ignore_errors=True)
    with atomic_write(run_dir / _MARK) as temporary:
        temporary.write_text(f"{checkpoint.name}\n", encoding="utf-8")
    return destination


def is_exported(run_dir: Path, step: int) -> bool:
    """Whether what `export_run` left in the folder is there still, and is the checkpoint of `step`."""
    mark = run_dir / _MARK
    made_from = mark.read_text(encoding="utf-8").strip() if mark.is_file() else ""
    there = any((run_dir / name).is_dir() for name in (_MODEL, _ADAPTER))
    return there and made_from == RunFolder(run_dir).checkpoint(step).name


def _write(checkpoint: Path, manifest: dict[str, Any], destination: Path, to: str) -> None:
    """Weights are trained in fp32; a whole model is kept in the precision that the run computed in."""
    recipe = manifest["recipe"]
    if not manifest["adapter_only"]:
        convert(checkpoint, destination, to=to, dtype=recipe.get("parallel", {}).get("precision", "fp32"))
        return
    tensors = {name.removeprefix(MODEL): tensor for name, tensor in read_pieces(checkpoint, MODEL_FILES).items()}
    config = from_hugging_face(read_json(checkpoint / "config.json"), str(checkpoint / "config.json"))
    lora, base = recipe["lora"], recipe["init"]["checkpoint"]
    settings = AdapterSettings(lora["r"], lora["alpha"], lora["dropout"], base)
    write_adapter(destination, config, trained_pairs(tensors), settings)
