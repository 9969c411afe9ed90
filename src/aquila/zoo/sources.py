"""What each hub offers for a model: files with addresses, sizes and, where the hub knows them, digests.

Hugging Face: GET {endpoint}/api/models/{repo}/revision/{revision}?blobs=true lists,
              {endpoint}/{repo}/resolve/{commit}/{file} delivers
ModelScope:   GET {endpoint}/api/v1/models/{repo}/repo/files?Revision=master lists,
              {endpoint}/models/{repo}/resolve/master/{file} delivers
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aquila.errors import ConfigError, DownloadError
from aquila.zoo.download import RemoteFile, Retry, fetch_json
from aquila.zoo.progress import Progress
from aquila.zoo.store import is_plain_name, useful_files


@dataclass(frozen=True)
class HubSettings:
    """What the environment says of hubs: HF_ENDPOINT may name a mirror, HF_HUB_OFFLINE forbids asking it."""

    hf_endpoint: str
    hf_token: str | None
    hf_offline: bool
    hf_cache: Path
    modelscope_endpoint: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "HubSettings":
        home = Path(environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
        return cls(
            hf_endpoint=_endpoint(environ, "HF_ENDPOINT", "https://huggingface.co"),
            hf_token=environ.get("HF_TOKEN") or None,
            hf_offline=environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"},
            hf_cache=Path(environ.get("HF_HUB_CACHE") or home / "hub").expanduser(),
            modelscope_endpoint=_endpoint(environ, "MODELSCOPE_ENDPOINT", "https://modelscope.cn"),
        )


@dataclass(frozen=True)
class Listing:
    """The files to fetch, where they come from (`hf:BAAI/Aquila-7B`) and at which commit."""

    source: str
    revision: str | None
    files: tuple[RemoteFile, ...]


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Lfs(_Reply):
    sha256: str | None = None


class _Sibling(_Reply):
    rfilename: str
    size: int | None = None
    lfs: _Lfs | None = None


class _HuggingFaceReply(_Reply):
    sha: str | None = None
    siblings: list[_Sibling]


class _ScopeFile(_Reply):
    path: str = Field(alias="Path")
    size: int | None = Field(None, alias="Size")
    sha256: str | None = Field(None, alias="Sha256")
    type: str = Field("blob", alias="Type")


class _ScopeFiles(_Reply):
    files: list[_ScopeFile] = Field(alias="Files")


class _ModelScopeReply(_Reply):
    data: _ScopeFiles = Field(alias="Data")


def list_hugging_face(
    client: httpx.Client,
    repo: str,
    hub: HubSettings,
    *,
    retry: Retry,
    progress: Progress,
    revision: str = "main",
) -> Listing:
    """The useful files of a Hugging Face repository, pinned to the commit that `revision` names now."""
    headers = {"Authorization": f"Bearer {hub.hf_token}"} if hub.hf_token else {}
    url = f"{hub.hf_endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
    body = fetch_json(client, url, headers, retry, progress)
    try:
        reply = _HuggingFaceReply.model_validate_json(body)
    except ValidationError as error:
        raise _strange(url, error) from None
    commit = reply.sha or revision
    files = [
        RemoteFile(
            name=item.rfilename,
            url=f"{hub.hf_endpoint}/{repo}/resolve/{quote(commit, safe='')}/{quote(item.rfilename)}",
            size=item.size,
            sha256=item.lfs.sha256 if item.lfs else None,
            headers=headers,
        )
        for item in reply.siblings
    ]
    return Listing(f"hf:{repo}", commit, _choose(files, url))


def list_modelscope(client: httpx.Client, repo: str, hub: HubSettings, *, retry: Retry, progress: Progress) -> Listing:
    """The useful files of a ModelScope repository."""
    url = f"{hub.modelscope_endpoint}/api/v1/models/{repo}/repo/files?Revision=master&Recursive=true"
    body = fetch_json(client, url, {}, retry, progress)
    try:
        reply = _ModelScopeReply.model_validate_json(body)
    except ValidationError as error:
        raise _strange(url, error) from None
    files = [
        RemoteFile(
            name=item.path,
            url=f"{hub.modelscope_endpoint}/models/{repo}/resolve/master/{quote(item.path)}",
            size=item.size,
            sha256=item.sha256 or None,
        )
        for item in reply.data.files
        if item.type != "tree"
    ]
    return Listing(f"modelscope:{repo}", "master", _choose(files, url))


def list_addresses(addresses: tuple[str, ...]) -> Listing:
    """Direct addresses of single files; each keeps the last part of its path as name."""
    files = []
    for address in addresses:
        parts = urlsplit(address)
        name = unquote(parts.path.rpartition("/")[2])
        if parts.scheme not in {"http", "https"} or not parts.netloc or not is_plain_name(name):
            raise ConfigError(
                f"{address!r} is not the http(s) address of a file; give one that ends in the file's name"
            )
        files.append(RemoteFile(name=name, url=address))
    return Listing(f"url:{addresses[0]}", None, tuple(files))


def expect(listing: Listing, sha256: Mapping[str, str], md5: Mapping[str, str]) -> Listing:
    """Adds the digests that the registry holds (file name: digest) to those of the hub."""
    files = tuple(
        replace(file, sha256=sha256.get(file.name, file.sha256), md5=md5.get(file.name, file.md5))
        for file in listing.files
    )
    return replace(listing, files=files)


def _choose(files: list[RemoteFile], url: str) -> tuple[RemoteFile, ...]:
    for file in files:
        # a hub is not trusted with where we write: folders are passed over, ways out of ours are refused
        if not all(is_plain_name(part) for part in file.name.split("/")):
            raise DownloadError(
                f"{url}: lists {file.name!r}, which is not a safe file name; do not use this repository"
            )
    by_name = {file.name: file for file in files}
    chosen = tuple(by_name[name] for name in useful_files(list(by_name)))
    gguf = [file.name for file in chosen if file.name.endswith(".gguf")]
    if len(gguf) > 1:
        raise DownloadError(
            f"{url}: holds {len(gguf)} GGUF files ({', '.join(gguf[:5])}...); "
            "pick one with --from url --source-path ADDRESS"
        )
    if not any(file.name.endswith((".safetensors", ".bin", ".gguf")) for file in chosen):
        raise DownloadError(f"{url}: lists no weights (safetensors, pytorch_model*.bin or GGUF); choose another source")
    return chosen


def _strange(url: str, error: ValidationError) -> DownloadError:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "the reply"
    return DownloadError(
        f"{url}: not a hub's reply ({field}: {first['msg']}); check HF_ENDPOINT or MODELSCOPE_ENDPOINT"
    )


def _endpoint(environ: Mapping[str, str], variable: str, default: str) -> str:
    endpoint = (environ.get(variable) or default).rstrip("/")
    if urlsplit(endpoint).scheme not in {"http", "https"} or not urlsplit(endpoint).netloc:
        raise ConfigError(f"{variable} is {endpoint!r}; it must be an address such as {default}")
    return endpoint
