"""How the package handles files: written whole or not at all, digested in one pass, one cache folder."""

import hashlib
import os
import secrets
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

CHUNK_BYTES = 1 << 20


def cache_dir() -> Path:
    """Where models and other downloads are kept: `$AQUILA_HOME`, else `~/.cache/aquila`."""
    home = os.environ.get("AQUILA_HOME")
    return Path(home).expanduser() if home else Path.home() / ".cache" / "aquila"


@contextmanager
def atomic_write(path: Path) -> Generator[Path]:
    """Yields a temporary path beside `path`; what is written to it replaces `path` if the block succeeds.

    On any exception, an interrupt too, the temporary file is removed and `path` stays as it was:

        with atomic_write(folder / "config.json") as temporary:
            temporary.write_text(text, encoding="utf-8")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        replace_durably(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_durably(source: Path, destination: Path) -> None:
    """Renames within one folder so that a power cut leaves the old file or the whole new one."""
    _flush(source)
    source.replace(destination)
    _flush(destination.parent)


def _flush(path: Path) -> None:
    if sys.platform == "win32":  # cannot flush what is open for reading only
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Hashes:
    """Several digests of one stream of bytes."""

    def __init__(self, algorithms: Sequence[str]) -> None:
        self._running = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}

    def update(self, data: bytes | memoryview) -> None:
        for running in self._running.values():
            running.update(data)

    def hexdigests(self) -> dict[str, str]:
        return {name: running.hexdigest() for name, running in self._running.items()}


def feed_file(path: Path, hashes: Hashes, on_bytes: Callable[[int], None] | None = None) -> int:
    """Runs a whole file through `hashes` and returns its size. `on_bytes` hears the count so far."""
    buffer = memoryview(bytearray(CHUNK_BYTES))
    size = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hashes.update(buffer[:count])
            size += count
            if on_bytes:
                on_bytes(size)
    return size


def digest_file(path: Path, algorithm: str) -> str:
    """Hex digest of a file, read in pieces. `algorithm` is a name of hashlib, such as `md5`."""
    hashes = Hashes([algorithm])
    feed_file(path, hashes)
    return hashes.hexdigests()[algorithm]


def sha256_file(path: Path) -> str:
    return digest_file(path, "sha256")
