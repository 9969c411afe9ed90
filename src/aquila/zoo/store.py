"""Models that are on this machine. No function here touches the network.

    $AQUILA_HOME/models/<name>[@version]/    the files, and aquila.json: what they are, with sizes and digests

`aquila.json` is written last, so a folder without one is an unfinished pull, never a model.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from aquila.config import suggest
from aquila.errors import CheckpointError, ConfigError, IntegrityError
from aquila.files import atomic_write, cache_dir
from aquila.zoo.registry import ModelEntry, all_models, find, lookup, split_reference

RECORD_NAME = "aquila.json"


class FileRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    size: int
    sha256: str
    md5: str | None = None


class Record(BaseModel):
    """The content of `aquila.json`.

    Attributes:
        version: a published version, `main` (what the hub's branch held), or `unidentified`.
        version_verified: a published digest covers the weights and says that they are this version. False: `version`
            is only what was asked for, or no published version at all; records of earlier pulls say nothing.
        source: such as `hf:BAAI/Aquila-7B`.
        revision: the hub's commit.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")  # a later version of ours may say more

    name: str
    version: str
    version_verified: bool = False
    preset: str
    chat_template: str | None
    licence: str
    licence_url: str
    source: str
    revision: str | None = None
    files: dict[str, FileRecord]


def models_dir() -> Path:
    return cache_dir() / "models"


def model_folder(name: str, version: str | None) -> Path:
    return models_dir() / (f"{name}@{version}" if version else name)


def is_plain_name(name: str) -> bool:
    """True for a file name that stays in its folder, whatever machine wrote it."""
    return bool(name) and name not in {".", ".."} and not set(name) & set('/\\:\0<>"|?*') and name.isprintable()


def read_record(folder: Path) -> Record | None:
    """The record of a pulled model, or None where there is none. `folder` may also be a file in it."""
    path = (folder if folder.is_dir() else folder.parent) / RECORD_NAME
    if not path.is_file():
        return None
    try:
        record = Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise IntegrityError(f"{path}: not a readable record ({problem}); delete it and pull the model again") from None
    for name in record.files:
        if not is_plain_name(name):
            raise IntegrityError(f"{path}: names a file outside its folder, {name!r}; delete the folder and pull again")
    return record


def write_record(folder: Path, record: Record) -> None:
    with atomic_write(folder / RECORD_NAME) as temporary:
        temporary.write_text(record.model_dump_json(indent=2, exclude_none=False) + "\n", encoding="utf-8")


def is_complete(folder: Path, record: Record) -> bool:
    """Every recorded file is there with its recorded size (`verify` also reads the bytes)."""
    return all(_size(folder / name) == file.size for name, file in record.files.items())


def entry_path(folder: Path, files: Mapping[str, FileRecord]) -> Path:
    """What `open_checkpoint` wants: the GGUF file where that is the model, else the folder."""
    gguf = [name for name in files if name.endswith(".gguf")]
    return folder / gguf[0] if len(gguf) == 1 and "config.json" not in files else folder


def local_path(name: str) -> Path | None:
    """Where a pulled model is, by registry name or `name@version`; None when it is not (wholly) here."""
    entry, version = _find_reference(name)
    folder = model_folder(entry.name, version)
    record = read_record(folder)
    return entry_path(folder, record.files) if record and is_complete(folder, record) else None


def resolve(name_or_path: str | Path) -> Path:
    """A model on this machine: a file or folder that exists, else a pulled model of that name.

    Raises:
        ConfigError: neither a path nor a known name.
        CheckpointError: a known model that has not been pulled.
    """
    name = str(name_or_path)
    if not name_or_path:
        raise ConfigError("the name of the model is empty; give a path or a name (`aquila models` lists them)")
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    if lookup(split_reference(name)[0]) is None:
        if (
            isinstance(name_or_path, Path)
            or "/" in name
            or "\\" in name
            or path.suffix in {".gguf", ".aqw", ".json", ".bin"}
        ):
            raise ConfigError(f"{name}: no such file or folder; `aquila models` lists the models known by name")
        known = [entry.name for entry in all_models()]
        raise ConfigError(f"{name!r} is neither a path nor a known model{suggest(name.lower(), known)}")
    found = local_path(name)
    if found is None:
        raise CheckpointError(f"{name} is not on this machine; run `aquila pull {name}`")
    return found


def downloaded(entry: ModelEntry) -> list[Path]:
    """Folders that hold a complete copy of a model, any version."""
    if not models_dir().is_dir():
        return []
    folders = [folder for folder in models_dir().iterdir() if split_reference(folder.name)[0] == entry.name]
    records = [(folder, read_record(folder)) for folder in sorted(folders)]
    return [folder for folder, record in records if record and is_complete(folder, record)]


def remove(name: str) -> Path:
    """Deletes a pulled model, or what an unfinished pull left, and returns the folder that was deleted."""
    entry, version = _find_reference(name)
    folder = model_folder(entry.name, version)
    if not folder.is_dir():
        others = ", ".join(path.name for path in downloaded(entry)) or "nothing of this model"
        raise CheckpointError(f"{folder} is not there, so nothing was removed; pulled: {others}")
    (folder / RECORD_NAME).unlink(missing_ok=True)  # first, so that a half-deleted folder is not taken for a model
    shutil.rmtree(folder)
    return folder


def _find_reference(reference: str) -> tuple[ModelEntry, str | None]:
    name, version = split_reference(reference)
    entry = find(name)
    return entry, entry.version(version).version if version else None


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def useful_files(names: list[str]) -> list[str]:
    """The files of a repository that make a model: one set of weights, config, tokenizer, licence, README.

    Only the top folder counts. safetensors are preferred to pickles, and both to GGUF.
    """
    plain = sorted(name for name in names if len(PurePosixPath(name).parts) == 1)
    kinds = (
        [name for name in plain if name.endswith(".safetensors")],
        [name for name in plain if name.startswith("pytorch_model") and name.endswith(".bin")],
        [name for name in plain if name.endswith(".gguf")],
    )
    weights = next((found for found in kinds if found), [])
    return weights + [name for name in plain if name in COMPANIONS or name.upper().startswith("LICENSE")]


COMPANIONS = frozenset(
    {
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "chat_template.jinja",
        "README.md",
    }
)
