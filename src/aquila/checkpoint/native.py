"""The project's own form: a Hugging Face folder whose manifest vouches for every file in it.

`manifest.json`: {format, format_version, created_by, dtype, files: {name: {size, sha256}}} and what is known
of the model (name, version, licence, chat_template, preset, source). Sizes are checked whenever the folder is
opened, digests by `aquila verify`.
"""

import sys
from pathlib import Path

import aquila
from aquila.checkpoint.checkpoint import Checkpoint, Export
from aquila.checkpoint.folder import read_json, write_json
from aquila.checkpoint.hf import read_hf, write_hf
from aquila.errors import CheckpointError, IntegrityError
from aquila.files import sha256_file

MANIFEST = "manifest.json"
FORMAT = "aquila-native"
VERSION = 1


def read_native(path: Path) -> Checkpoint:
    """Opens a folder that has a manifest."""
    where = path / MANIFEST
    manifest = read_json(where)
    if manifest.get("format") != FORMAT or not isinstance(manifest.get("files"), dict):
        raise CheckpointError(
            f"{where}: format is {manifest.get('format')!r}, expected {FORMAT!r} with a list of files"
        )
    if manifest.get("format_version") != VERSION:
        raise CheckpointError(
            f"{where}: format_version is {manifest.get('format_version')!r}, this program reads {VERSION}; "
            "update aquila"
        )
    for name, entry in manifest["files"].items():
        file = path / name
        found = file.stat().st_size if file.is_file() else None
        expected = entry.get("size") if isinstance(entry, dict) else None
        if found != expected or found is None:
            raise IntegrityError(
                f"{file}: {'absent' if found is None else f'{found} bytes'}, the manifest says "
                f"{expected} bytes; the copy is incomplete, fetch it again"
            )
    return read_hf(path, kind="native", manifest=manifest)


def write_native(export: Export, directory: Path) -> None:
    """Writes weights, config, tokenizer and, last, the manifest into an existing empty folder."""
    digests = write_hf(export, directory, max_shard_bytes=sys.maxsize)
    files = {
        file.name: {"size": file.stat().st_size, "sha256": digests.get(file.name) or sha256_file(file)}
        for file in sorted(directory.iterdir())
    }
    manifest = {
        "format": FORMAT,
        "format_version": VERSION,
        "created_by": f"aquila {aquila.__version__}",
        "dtype": export.dtype,
        **export.record,
        "files": files,
    }
    write_json(directory / MANIFEST, manifest)
