"""Shapes of the published models and of `tiny`, as data: one YAML file each in `presets/`. Imports no torch."""

from functools import cache
from importlib import resources

from aquila.config import read_yaml_text, suggest
from aquila.errors import ConfigError
from aquila.model.config import ModelConfig, parse_config

FOLDER = resources.files("aquila.model") / "presets"


@cache
def preset_names() -> tuple[str, ...]:
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in FOLDER.iterdir() if entry.name.endswith(".yaml")))


def preset(name: str) -> ModelConfig:
    """The config of a preset. A file that names another as its `base` changes only the fields it gives."""
    return parse_config(_fields(name), f"preset {name}")


def _fields(name: str) -> dict:
    if name not in preset_names():
        raise ConfigError(f"no preset is called {name!r}{suggest(name, preset_names())}")
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    data = read_yaml_text(text, where=f"presets/{name}.yaml")
    base = data.pop("base", None)
    return data if base is None else _fields(base) | data
