"""Checks a checkpoint as far as bytes can tell: structure, digests, and numbers that are not numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aquila.checkpoint.checkpoint import Checkpoint
from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.packed import check_sections, packed_file
from aquila.errors import AquilaError
from aquila.files import sha256_file

_SHOWN = 8


@dataclass(frozen=True)
class Verification:
    """What was checked and what was found; `findings` is empty for a sound checkpoint."""

    path: Path
    format: str | None
    num_tensors: int
    num_parameters: int
    num_digests: int
    findings: tuple[str, ...]


def verify_checkpoint(path: Path, *, progress: Callable[[str], None] = lambda name: None) -> Verification:
    """Opens the checkpoint, compares recorded digests and reads every tensor once.

    `progress` hears the name of each file and tensor before it is read. Problems are reported, not raised.
    """
    path = Path(path)
    try:
        checkpoint = open_checkpoint(path)
    except AquilaError as error:
        return Verification(path, None, 0, 0, 0, (str(error),))
    if checkpoint.format == "packed":
        return _verify_packed(checkpoint, progress)
    recorded = checkpoint.manifest.get("files", {})
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    if not isinstance(recorded, dict) or not all(isinstance(entry, dict) for entry in recorded.values()):
        broken = f"{folder}: the record of its files is damaged; fetch the checkpoint again"
        return Verification(path, checkpoint.format, 0, 0, 0, (broken,))
    findings = _check_digests(folder, recorded, progress) + _check_numbers(checkpoint, progress)
    return _verification(checkpoint, len(recorded), findings)


def _verify_packed(checkpoint: Checkpoint, progress: Callable[[str], None]) -> Verification:
    """The file holds the digest of each of its tensors; only bytes that agree are read as numbers."""
    progress(checkpoint.path.name)
    file = packed_file(checkpoint.path)
    findings = check_sections(file) or _check_numbers(checkpoint, progress)
    return _verification(checkpoint, len(file.tensors) + (file.tokenizer is not None), findings)


def _verification(checkpoint: Checkpoint, num_digests: int, findings: list[str]) -> Verification:
    return Verification(
        checkpoint.path,
        checkpoint.format,
        len(checkpoint.tensors),
        sum(tensor.num_elements for tensor in checkpoint.tensors.values()),
        num_digests,
        tuple(findings),
    )


def _check_digests(folder: Path, recorded: Mapping[str, Any], progress: Callable[[str], None]) -> list[str]:
    findings = []
    for name, entry in recorded.items():
        progress(name)
        file = folder / name
        if not file.is_file():
            findings.append(f"{file}: is recorded but absent; fetch it again")
            continue
        found, expected = sha256_file(file), entry.get("sha256")
        if found != expected:
            findings.append(f"{file}: sha256 is {found}, recorded {expected}; fetch the file again")
    return findings


def _check_numbers(checkpoint: Checkpoint, progress: Callable[[str], None]) -> list[str]:
    bad = []
    for name, tensor in checkpoint.tensors.items():
        progress(name)
        count = sum(int(np.count_nonzero(~np.isfinite(block))) for block in tensor.chunks())
        if count:
            bad.append(f"{name} ({count} of {tensor.num_elements})")
    if not bad:
        return []
    more = ", ..." if len(bad) > _SHOWN else ""
    return [f"{checkpoint.path}: NaN or infinite values in {len(bad)} tensors: {', '.join(bad[:_SHOWN])}{more}"]
