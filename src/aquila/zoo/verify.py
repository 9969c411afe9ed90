"""Recomputes digests: are the bytes of a model still those that were pulled, written or published?

Three records are known: `aquila.json` of a pull, `manifest.json` of a native checkpoint, and the registry,
which knows the md5 of every published `pytorch_model.bin` and so can tell which version a bare file is.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from aquila.errors import IntegrityError
from aquila.files import Hashes, feed_file
from aquila.zoo.registry import WEIGHTS_FILE, ModelEntry, all_models
from aquila.zoo.store import FileRecord, is_plain_name, read_record, resolve, useful_files

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Finding:
    """`ok`: agrees with a record. `unknown`: nothing to compare with. `wrong`: disagrees, or is missing."""

    file: str
    status: Literal["ok", "unknown", "wrong"]
    message: str


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    files: dict[str, FileRecord]


@dataclass(frozen=True)
class _Expectation:
    record: FileRecord
    written_in: str  # aquila.json or manifest.json


def verify(path_or_name: str | Path, on_file: Callable[[str], None] | None = None) -> list[Finding]:
    """Like `check`, but anything wrong is an `IntegrityError` that lists it."""
    findings = check(path_or_name, on_file)
    raise_if_wrong(findings, resolve(path_or_name))
    return findings


def check(path_or_name: str | Path, on_file: Callable[[str], None] | None = None) -> list[Finding]:
    """Reads every file of a model once and compares it with what is known of it.

    Args:
        path_or_name: a folder, one file, or the name of a pulled model.
        on_file: hears the name of each file before it is read (a 14 GB file takes a while).
    """
    path = resolve(path_or_name)
    folder = path if path.is_dir() else path.parent
    expectations = _expectations(folder)
    if path.is_dir():
        names = sorted(expectations) or useful_files([item.name for item in path.iterdir() if item.is_file()])
    else:
        names = [path.name]
    if not names:
        raise IntegrityError(f"{path}: holds no model files; name the folder or the file of a model")
    findings = []
    for name in names:
        if on_file:
            on_file(name)
        findings.append(_check_file(folder / name, expectations[name]))
    return findings


def raise_if_wrong(findings: list[Finding], path: Path) -> None:
    wrong = [f"{finding.file}: {finding.message}" for finding in findings if finding.status == "wrong"]
    if wrong:
        raise IntegrityError(f"{path}: {'; '.join(wrong)}. Delete what is damaged and pull or convert it again")


def _expectations(folder: Path) -> defaultdict[str, list[_Expectation]]:
    expectations: defaultdict[str, list[_Expectation]] = defaultdict(list)
    if record := read_record(folder):
        for name, file in record.files.items():
            expectations[name].append(_Expectation(file, "aquila.json"))
    for name, file in _read_manifest(folder / MANIFEST_NAME).items():
        expectations[name].append(_Expectation(file, MANIFEST_NAME))
    return expectations


def _read_manifest(path: Path) -> dict[str, FileRecord]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise IntegrityError(f"{path}: not JSON ({error}); the checkpoint is damaged, write it again") from None
    if not isinstance(content, dict) or "files" not in content:
        return {}  # another program's manifest
    try:
        files = _Manifest.model_validate(content).files
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise IntegrityError(f"{path}: {field}: {problem['msg']}; the checkpoint is damaged, write it again") from None
    for name in files:
        if not is_plain_name(name):
            raise IntegrityError(f"{path}: names a file outside its folder, {name!r}; do not use this checkpoint")
    return files


def _check_file(path: Path, expectations: list[_Expectation]) -> Finding:
    if not path.is_file():
        return Finding(path.name, "wrong", f"is recorded in {expectations[0].written_in} and missing")
    want_md5 = path.name == WEIGHTS_FILE or any(item.record.md5 for item in expectations)
    hashes = Hashes(("sha256", "md5") if want_md5 else ("sha256",))
    size = feed_file(path, hashes)
    digests = hashes.hexdigests()
    for item in expectations:
        if size != item.record.size:
            return Finding(path.name, "wrong", f"has {size} bytes, {item.written_in} says {item.record.size}")
        if digests["sha256"] != item.record.sha256:
            message = f"sha256 is {digests['sha256']}, {item.written_in} says {item.record.sha256}"
            return Finding(path.name, "wrong", message)
    published = _identify(path.name, digests)
    if published:
        return Finding(path.name, "ok", f"is {' = '.join(published)}, as published")
    if expectations:
        return Finding(path.name, "ok", f"agrees with {' and '.join(item.written_in for item in expectations)}")
    return Finding(path.name, "unknown", f"sha256 is {digests['sha256']}; no record to compare it with")


def _identify(name: str, digests: dict[str, str]) -> list[str]:
    """Published versions with these bytes, such as `aquila-7b v0.8`, `aquila-7b v0.9`."""
    return [found for entry in all_models() for found in _versions_with(entry, name, digests)]


def _versions_with(entry: ModelEntry, name: str, digests: dict[str, str]) -> list[str]:
    found = [
        f"{entry.name} {version.version}"
        for version in entry.versions
        if version.md5 and version.md5 == digests.get("md5")
    ]
    if not found and entry.sha256.get(name) == digests["sha256"]:
        return [f"{entry.name} {entry.default_version}"]
    return found
