"""Checkpoint folders: JSON files read with care, and results that appear whole or not at all."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aquila.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. `CheckpointError` when the file is not one."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; fetch the file again") from None
    return parse_json(text, str(path))


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object from bytes. A name given twice is an error: two readers could see two files in one."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: is not valid JSON: {error}; the file is damaged, fetch it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: holds a JSON {type(value).__name__} where an object is expected")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return result


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes an object, indented, with non-ASCII text as it is."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def json_digest(value: Any) -> str:
    """The sha256 of what can be JSON, whatever the order of its keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@contextmanager
def new_folder(destination: Path) -> Generator[Path]:
    """A folder in the making beside `destination`, which it becomes when the block succeeds.

    `destination` is absent or an empty folder. On any exception, an interrupt too, the work is removed.
    """
    temporary = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb+") as written:
                os.fsync(written.fileno())  # the folder's name must not outlive its bytes in a power cut
        if destination.is_dir():
            destination.rmdir()
        temporary.rename(destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
