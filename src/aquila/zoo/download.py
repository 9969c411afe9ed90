"""Fetches one file over HTTP so that no failure costs more than the bytes still missing.

    NAME.part         the bytes so far; a later run reads them again for the digest and asks for the rest
    NAME.part.json    the address and the ETag (or Last-Modified) they came with: a changed file starts again
    NAME.quarantined  a whole file whose digest is not the promised one

Each attempt resumes. Attempts count only while the file does not grow past its longest, so a line that drops
every few megabytes still delivers, and a server that never delivers ends in one `DownloadError`.
"""

import json
import random
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import httpx

from aquila.config import format_size
from aquila.errors import DownloadError, IntegrityError
from aquila.files import Hashes, atomic_write, feed_file, replace_durably
from aquila.zoo.progress import Progress
from aquila.zoo.store import FileRecord

_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch. What is known of it beforehand is checked: `size` in bytes, digests in hex."""

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Retry:
    """Waits `first_delay_seconds`, then twice as long each time (with jitter), `attempts` times in all."""

    attempts: int = 6
    first_delay_seconds: float = 1.0
    max_delay_seconds: float = 30.0
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random

    def delay_seconds(self, failures: int, server_asks: float | None) -> float:
        backoff = self.first_delay_seconds * 2 ** (failures - 1) * (0.5 + self.jitter())
        return min(max(backoff, server_asks or 0.0), self.max_delay_seconds)


class TransientError(Exception):
    """Worth another attempt. `delay_seconds` is the server's wish (Retry-After), if any."""

    def __init__(self, message: str, delay_seconds: float | None = None) -> None:
        super().__init__(message)
        self.delay_seconds = delay_seconds


def open_client() -> httpx.Client:
    """A client that follows redirects and the proxies of HTTP_PROXY, HTTPS_PROXY and NO_PROXY."""
    timeout = httpx.Timeout(30.0, connect=10.0)
    try:
        return httpx.Client(follow_redirects=True, timeout=timeout, headers={"User-Agent": "aquila"})
    except (ImportError, ValueError) as error:  # a SOCKS proxy without socksio; a proxy address that is none
        raise DownloadError(
            f"the proxy settings cannot be used: {error}; see HTTP_PROXY, HTTPS_PROXY, ALL_PROXY"
        ) from None


def fetch_json(client: httpx.Client, url: str, headers: Mapping[str, str], retry: Retry, progress: Progress) -> bytes:
    """The body of a small reply, retried as a download is."""
    failures = 0
    while True:
        try:
            return _get(client, url, headers)
        except TransientError as problem:
            failures += 1
            _wait(problem, failures, retry, progress, url)


def fetch(client: httpx.Client, file: RemoteFile, folder: Path, *, retry: Retry, progress: Progress) -> FileRecord:
    """Downloads `file` into `folder`, resuming what an earlier run left, and returns its size and digests.

    Raises:
        DownloadError: the server does not deliver, or the disk is full; the `.part` stays for the next run.
        IntegrityError: the bytes are not the promised ones; they are set aside as `NAME.quarantined`.
    """
    part = Part(folder, file, progress)
    longest, failures = part.size, 0
    while not part.is_whole:
        try:
            _attempt(client, file, part)
        except TransientError as problem:
            if part.size > longest:
                longest, failures = part.size, 0
            failures += 1
            _wait(problem, failures, retry, progress, file.url)
    return part.finish()


class Part:
    """The bytes of a file so far, with their running digests."""

    def __init__(self, folder: Path, file: RemoteFile, progress: Progress) -> None:
        self.file = file
        self.progress = progress
        self.destination = folder / file.name
        self.path = folder / f"{file.name}.part"
        self.note_path = folder / f"{file.name}.part.json"
        self.size = 0
        self.validator: str | None = None  # strong ETag or Last-Modified that the bytes came with
        self.is_whole = False
        self._start_over()
        if self.path.exists():
            self._take_up()

    def _start_over(self) -> None:
        self.size = 0
        self.hashes = Hashes(algorithms_for(self.file.name))
        self.progress.start(self.file.name, self.file.size, 0)

    def _take_up(self) -> None:
        """Reads the bytes of an earlier run, if they can be told to be of the same file."""
        note = self._read_note()
        same_content = self.file.sha256 is not None and note.get("sha256") == self.file.sha256
        if note.get("url") == self.file.url:
            self.validator = note.get("validator")
        if not same_content and self.validator is None:
            self.clear()
            return
        self.progress.say(f"{self.file.name}: resuming at {format_size(self.path.stat().st_size)}")
        self.progress.start(self.file.name, self.file.size, 0)
        self.size = feed_file(self.path, self.hashes, lambda done: self.progress.update(self.file.name, done))
        if self.file.size is not None and self.size > self.file.size:
            self.clear()
        self.is_whole = self.size == self.file.size

    def _read_note(self) -> dict[str, str | None]:
        if not self.note_path.exists():
            return {}
        try:
            note = json.loads(self.note_path.read_bytes())
        except ValueError:
            return {}  # a damaged note means that the bytes cannot be placed: start again
        return note if isinstance(note, dict) else {}

    def clear(self) -> None:
        """Forgets the bytes: they are not of this file, or nobody can say."""
        self.path.unlink(missing_ok=True)
        self.note_path.unlink(missing_ok=True)
        self.validator = None
        self._start_over()

    def begin(self, validator: str | None) -> None:
        """Notes where the bytes that follow come from, before the first of them is written."""
        if self.size and validator == self.validator:
            return
        self.validator = validator
        note = {"url": self.file.url, "validator": validator, "sha256": self.file.sha256}
        with atomic_write(self.note_path) as temporary:
            temporary.write_text(json.dumps(note), encoding="utf-8")

    def append(self, sink: BinaryIO, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                count = sink.write(rest)
            except OSError as error:
                raise DownloadError(
                    f"{self.path}: cannot be written at {format_size(self.size)}: {error.strerror}; "
                    "make room (or set AQUILA_HOME to a larger disk) and run the same command: it resumes"
                ) from None
            self.hashes.update(rest[:count])
            self.size += count
            rest = rest[count:]
        self.progress.update(self.file.name, self.size)

    def finish(self) -> FileRecord:
        """Checks the digests and gives the file its name."""
        if not self.path.exists():
            self.path.touch()  # a file of no bytes
        digests = self.hashes.hexdigests()
        for algorithm, expected in (("sha256", self.file.sha256), ("md5", self.file.md5)):
            if expected and digests[algorithm] != expected:
                self._quarantine(algorithm, digests[algorithm], expected)
        replace_durably(self.path, self.destination)
        self.note_path.unlink(missing_ok=True)
        self.progress.finish(self.file.name)
        return FileRecord(size=self.size, sha256=digests["sha256"], md5=digests.get("md5"))

    def _quarantine(self, algorithm: str, found: str, expected: str) -> None:
        aside = self.destination.with_name(f"{self.file.name}.quarantined")
        self.path.replace(aside)
        self.note_path.unlink(missing_ok=True)
        raise IntegrityError(
            f"{self.file.url}: {algorithm} is {found}, expected {expected}; set aside as {aside}. "
            "Run the command again, or choose another source with --from"
        )


def algorithms_for(name: str) -> tuple[str, ...]:
    """sha256 for everything, md5 too for the pickles, whose md5 BAAI published."""
    return ("sha256", "md5") if name.endswith(".bin") else ("sha256",)


def require_space(folder: Path, needed_bytes: int) -> None:
    """`DownloadError` now rather than a full disk in an hour."""
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise DownloadError(
            f"{folder}: {format_size(needed_bytes)} are needed and {format_size(free)} are free; "
            "make room, or set AQUILA_HOME (or --to) to a larger disk"
        )


def _attempt(client: httpx.Client, file: RemoteFile, part: Part) -> None:
    """One request for the bytes that are missing."""
    headers = {**file.headers, "Accept-Encoding": "identity"}
    if part.size and part.validator is None and file.sha256 is None:
        part.clear()  # nothing would tell whether the rest belongs to these bytes
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.validator and file.sha256 is None:
            headers["If-Range"] = part.validator
    try:
        with client.stream("GET", file.url, headers=headers) as response:
            total = _accept(response, part)
            if part.size != total:
                _receive(response, part)
    except httpx.TransportError as error:
        raise TransientError(str(error) or type(error).__name__) from None
    except httpx.RequestError as error:
        raise DownloadError(f"{file.url}: {error}; check the address") from None
    if total is not None and part.size != total:
        raise TransientError(f"the server promised {total} bytes and sent {part.size}")
    part.is_whole = True


def _accept(response: httpx.Response, part: Part) -> int | None:
    """Decides where the bytes of this reply belong; returns the size of the whole file, where it is known."""
    file = part.file
    if response.status_code == 416 and part.size:
        if response.headers.get("Content-Range") == f"bytes */{part.size}":
            return part.size  # an earlier run was stopped between the last byte and the rename
        part.clear()
        raise TransientError("the file on the server is shorter than what is here; starting again")
    _check_status(response, file.url)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise DownloadError(
            f"{file.url}: the server sends the file compressed, which was not asked for; try another source"
        )
    if response.status_code == 206:
        total = _check_range(response, part)
    else:
        if part.size:
            part.progress.say(f"{file.name}: the server does not resume or the file changed; starting again")
            part.clear()
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
    if total is not None and file.size is not None and total != file.size:
        raise TransientError(f"the server offers {total} bytes, the hub lists {file.size}")
    expected = total if total is not None else file.size
    if expected is not None:
        part.progress.start(file.name, expected, part.size)
        require_space(part.path.parent, expected - part.size)
    part.begin(_validator(response))
    return expected


def _check_range(response: httpx.Response, part: Part) -> int | None:
    shown = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(shown.strip())
    if match is None or int(match[1]) != part.size:
        wanted = part.size
        part.clear()
        raise TransientError(f"asked for bytes from {wanted} on, the server answered {shown!r}; starting again")
    validator = _validator(response)
    if part.file.sha256 is None and validator != part.validator:
        part.clear()
        raise TransientError("the file changed on the server; starting again")
    return None if match[3] == "*" else int(match[3])


def _validator(response: httpx.Response) -> str | None:
    """What If-Range may carry: a strong ETag, else the date of the last change."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _receive(response: httpx.Response, part: Part) -> None:
    limit = part.file.size
    with part.path.open("ab", buffering=0) as sink:
        for data in response.iter_raw():
            part.append(sink, data)
            if limit is not None and part.size > limit:
                break
    if limit is not None and part.size > limit:
        part.clear()
        raise TransientError(f"the server sends more than the {limit} bytes that the hub lists")


def _get(client: httpx.Client, url: str, headers: Mapping[str, str]) -> bytes:
    try:
        response = client.get(url, headers=dict(headers))
    except httpx.TransportError as error:
        raise TransientError(str(error) or type(error).__name__) from None
    except httpx.RequestError as error:
        raise DownloadError(f"{url}: {error}; check the address") from None
    _check_status(response, url)
    return response.content


def _check_status(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status in {200, 206}:
        return
    if status in _BUSY:
        asked = response.headers.get("Retry-After", "")
        raise TransientError(f"HTTP {status}", float(asked) if asked.isdecimal() else None)
    if status in {401, 403}:
        hint = "log in at the hub, accept the model's conditions there, and set HF_TOKEN"
    elif status == 404:
        hint = "it is not there; check name, version and HF_ENDPOINT, or choose another source with --from"
    else:
        hint = "choose another source with --from"
    raise DownloadError(f"{url}: HTTP {status}; {hint}")


def _wait(problem: TransientError, failures: int, retry: Retry, progress: Progress, url: str) -> None:
    if failures >= retry.attempts:
        raise DownloadError(
            f"{url}: {problem} ({failures} attempts without progress); check the network and run the same "
            "command: it resumes. HF_ENDPOINT names a mirror, --from another source"
        )
    delay = retry.delay_seconds(failures, problem.delay_seconds)
    progress.say(f"{url}: {problem}; attempt {failures + 1} of {retry.attempts} in {delay:.0f} s")
    retry.sleep(delay)
