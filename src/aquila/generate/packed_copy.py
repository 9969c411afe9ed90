"""The packed file that weights are read from under a memory limit: the checkpoint itself, or a copy in the cache.

    $AQUILA_HOME/packed/<model>-<format>-<mark>.aqw

The mark stands for the source's files as they are. Copies of what they were before are removed when a new one is there.
"""

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from aquila.checkpoint.native_weights import DTYPE_FORMATS, choose_formats, native_format
from aquila.checkpoint.open import Checkpoint, open_checkpoint
from aquila.checkpoint.packed import SUFFIX, packed_file
from aquila.checkpoint.packed_writer import default_path, plan_formats, quantise_apart
from aquila.errors import AquilaError
from aquila.kernels.formats import FORMATS

log = logging.getLogger(__name__)

_MARKED = re.compile(rf".+-(?:{'|'.join(FORMATS)})-([0-9a-f]{{12}}){re.escape(SUFFIX)}")


@dataclass(frozen=True)
class PackedCopy:
    """Where a model's packed weights are, or will be.

    Attributes:
        source: the model as it was opened.
        to: the format to pack it in; None when it is a packed file itself, and to be read as it is.
        path: of the packed file, which need not exist yet.
        formats: of the matrices in it.
    """

    source: Checkpoint
    to: str | None
    path: Path
    formats: dict[str, str]


def packed_copy(checkpoint: Checkpoint, name: str, wanted: str | None) -> PackedCopy:
    """What a model called `name` is read from, its weights as `wanted` (a key of DTYPE_FORMATS) or as most of it is."""
    main = main_format(checkpoint)
    to = main if wanted is None else DTYPE_FORMATS[wanted]
    if checkpoint.format == "packed" and to == main:
        return PackedCopy(checkpoint, None, checkpoint.path, choose_formats(checkpoint.tensors, None))
    plain = default_path(checkpoint.path if Path(name).expanduser().exists() else Path(name), to)
    path = plain.with_stem(f"{plain.stem}-{source_mark(checkpoint.path)}")
    formats = plan_formats(checkpoint.tensors, to)
    matrices = {key: formats[key] for key, tensor in checkpoint.tensors.items() if len(tensor.shape) == 2}
    return PackedCopy(checkpoint, to, path, matrices)


def open_copy(copy: PackedCopy, name: str) -> Checkpoint:
    """The packed file, made first where it is not there."""
    if copy.to is None:
        return copy.source
    if not copy.path.exists():
        log.warning(
            "packing %s as %s into %s, once; under a memory limit weights are read from there", name, copy.to, copy.path
        )
        copy.path.parent.mkdir(parents=True, exist_ok=True)
        quantise_apart(copy.source.path, copy.path, to=copy.to)
        _remove_stale(copy)
    return open_checkpoint(copy.path)


def source_mark(path: Path) -> str:
    """Twelve hex digits that differ between checkpoints of one name, and once a file of one is written again."""
    source = path.resolve()
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    facts = [f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files if file.is_file()]
    return hashlib.sha256("\n".join(facts).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def main_format(checkpoint: Checkpoint) -> str:
    """The format that most weights have, in which a model is packed when no other is asked for."""
    sizes: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        if len(tensor.shape) == 2:
            found = native_format(tensor)
            sizes[found] = sizes.get(found, 0) + tensor.num_elements
    return max(sizes, key=lambda item: sizes[item])


def _remove_stale(copy: PackedCopy) -> None:
    """Removes copies of the same source as it was before. Whoever still reads one keeps it open."""
    current = _MARKED.fullmatch(copy.path.name)
    assert current is not None, "the path has a mark"
    source = copy.source.path.resolve()
    for path in copy.path.parent.glob(f"*{SUFFIX}"):
        marked = _MARKED.fullmatch(path.name)
        if marked is None or marked[1] == current[1] or _source_of(path) != source:
            continue
        path.unlink(missing_ok=True)
        log.info("removed %s: %s has been written again since", path, source)


def _source_of(path: Path) -> Path | None:
    """What a packed file says it was made from; None when it cannot be read, which is not for us to report."""
    try:
        source = packed_file(path).provenance.get("source")
    except AquilaError:
        return None
    found = source.get("path") if isinstance(source, dict) else None
    return Path(found) if isinstance(found, str) else None
