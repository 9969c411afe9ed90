"""The checkpoints of a training run on disk: each appears whole or not at all, and a manifest vouches for every file.

    RUN/checkpoints/step-00001000/      manifest.json, config.json, the tokenizer, *.safetensors of every rank
    RUN/checkpoints/step-00001000.tmp/  being written or removed; nobody reads it
    RUN/checkpoints/latest              name of the newest one, for people; a reader goes by the manifests

A folder is filled under its .tmp name, flushed to the disk, and renamed when its manifest is in it. Whatever is killed
in between leaves the earlier checkpoints as they were.
"""

import errno
import os
import re
import shutil
import socket
import sys
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import aquila
from aquila.checkpoint.folder import json_digest, read_json, write_json
from aquila.errors import CheckpointError
from aquila.files import atomic_write, replace_durably, sha256_file

CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
FORMAT = "aquila-training"
VERSION = 1
_STEP = re.compile(r"step-(\d{8,})")


class RunFolder:
    """The folder `checkpoints` of one run. Nothing in memory: every answer is read from the disk."""

    def __init__(self, run_dir: Path) -> None:
        self.path = Path(run_dir) / CHECKPOINTS

    def checkpoint(self, step: int) -> Path:
        return self.path / f"step-{step:08d}"

    def temporary(self, step: int) -> Path:
        return self.path / f"step-{step:08d}.tmp"

    def steps(self) -> list[int]:
        """Steps with a published checkpoint, newest first. Their files have not been looked at."""
        if not self.path.is_dir():
            return []
        matches = [_STEP.fullmatch(entry.name) for entry in self.path.iterdir() if entry.is_dir()]
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def claim(self) -> "Claim":
        """Claims the folder for this process. `CheckpointError` when another one trains into it."""
        self.path.mkdir(parents=True, exist_ok=True)
        return Claim(self.path)

    def sweep(self) -> list[str]:
        """Removes what killed processes left half-written, and says what that was."""
        leftovers = sorted(self.path.glob("step-*.tmp"))
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)
        return [leftover.name for leftover in leftovers]

    def publish(self, step: int, manifest: Mapping[str, Any]) -> Path:
        """Turns the finished folder `temporary(step)` into `checkpoint(step)`.

        `manifest` is completed with format, version and its own digest; its `files` must be there with their sizes.
        """
        temporary, final = self.temporary(step), self.checkpoint(step)
        for name, entry in manifest["files"].items():
            file = temporary / name
            if not file.is_file() or file.stat().st_size != entry["size"]:
                raise CheckpointError(
                    f"{file}: was written by another rank but is not there; {self.path} must lie on a file system that "
                    "all nodes share"
                )
        whole = {"format": FORMAT, "format_version": VERSION, "created_by": f"aquila {aquila.__version__}", **manifest}
        write_json(temporary / MANIFEST, {**whole, "sha256": json_digest(whole)})
        for file in temporary.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())  # the folder's name must not outlive its bytes in a power cut
        if final.exists():  # of an earlier attempt, damaged or gone back behind: out of the way in one move
            doomed = final.with_name(f"{final.name}.replaced.tmp")
            shutil.rmtree(doomed, ignore_errors=True)
            final.rename(doomed)
        replace_durably(temporary, final)
        shutil.rmtree(final.with_name(f"{final.name}.replaced.tmp"), ignore_errors=True)
        with atomic_write(self.path / "latest") as latest:
            latest.write_text(final.name + "\n", encoding="utf-8")
        return final

    def prune(self, newest: int, *, keep_last: int, keep_interval: int | None) -> list[int]:
        """Removes checkpoints that are neither among the last `keep_last` nor at a multiple of `keep_interval`.

        Those above `newest`, the step just published, do not count and stay: the run had to go back behind them.
        """
        counted = [step for step in self.steps() if step <= newest]
        old = [step for step in counted[keep_last:] if keep_interval is None or step % keep_interval]
        for step in old:
            doomed = self.temporary(step)
            self.checkpoint(step).rename(doomed)  # so that no reader finds half of it
            shutil.rmtree(doomed, ignore_errors=True)
        return old


class Claim:
    """A lock on a folder of checkpoints, until `close`, or until this is forgotten.

    The kernel frees the claim of a process that dies, killed or not.
    """

    def __init__(self, folder: Path) -> None:
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        self.close = weakref.finalize(self, os.close, descriptor)
        if sys.platform == "win32":  # has no such locks
            return
        import fcntl  # noqa: PLC0415  not there on Windows

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):  # a file system without locks
                return
            holder = os.read(descriptor, 1000).decode(errors="replace").strip()
            self.close()
            raise CheckpointError(
                f"{folder}: {holder or 'another process'} is training into this folder; wait for it, end it, or give "
                "this run another folder"
            ) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())


def is_training_manifest(path: Path) -> bool:
    """Whether the folder `path` is a training checkpoint by its manifest; False too when that cannot be read."""
    try:
        return read_json(path / MANIFEST).get("format") == FORMAT
    except CheckpointError:
        return False


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a training checkpoint, after checking its own digest and that its files are there in full.

    Raises:
        CheckpointError: it is not one, is damaged, or names files that are absent or of another size.
    """
    where = path / MANIFEST
    manifest = read_json(where)
    digest = manifest.pop("sha256", None)
    if manifest.get("format") != FORMAT or manifest.get("format_version") != VERSION:
        raise CheckpointError(
            f"{where}: format is {manifest.get('format')!r} {manifest.get('format_version')!r}, this program reads "
            f"{FORMAT!r} {VERSION}; continue with the version of aquila that wrote it"
        )
    if digest != json_digest(manifest):
        raise CheckpointError(f"{where}: does not agree with its own digest; the file is damaged")
    for name, entry in manifest["files"].items():
        file = path / name
        found = file.stat().st_size if file.is_file() else None
        if found != entry["size"]:
            state = "absent" if found is None else f"{found} bytes"
            raise CheckpointError(f"{file}: {state}, the manifest says {entry['size']} bytes")
    return manifest


def check_digests(path: Path, manifest: Mapping[str, Any], names: Iterable[str]) -> None:
    """Reads the files `names` of a checkpoint. `CheckpointError` at the first whose bytes are not those written."""
    for name in names:
        expected, found = manifest["files"][name]["sha256"], sha256_file(path / name)
        if found != expected:
            raise CheckpointError(f"{path / name}: sha256 is {found[:12]}..., the manifest says {expected[:12]}...")


def newest_checkpoint(run_dir: Path) -> Path:
    """The newest checkpoint of a run whose files are all there.

    Raises:
        CheckpointError: the run has none.
    """
    folder = RunFolder(run_dir)
    findings = []
    for step in folder.steps():
        try:
            read_manifest(folder.checkpoint(step))
        except CheckpointError as error:
            findings.append(str(error))
            continue
        return folder.checkpoint(step)
    found = f"; {findings[0]}" if findings else ""
    raise CheckpointError(f"{run_dir}: this run has no whole checkpoint to load{found}")
