"""Settings with a name: what others have published figures with. The values are data, in presets.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from aquila.config import read_yaml_text, suggest
from aquila.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """How a published figure was drawn, or as near as its authors say.

    Attributes:
        source: where that is from.
        temperatures: one run each.
        k: which pass@k it is for.
    """

    source: str
    n: int
    temperatures: tuple[float, ...]
    top_p: float
    max_new_tokens: int
    k: tuple[int, ...]
    prompt_style: str = "bare"


@cache
def presets() -> Mapping[str, Preset]:
    text = (files("aquila.evaluate") / "presets.yaml").read_text(encoding="utf-8")
    listed = read_yaml_text(text, where="presets.yaml")
    return {name: _read(each) for name, each in listed.items()}


def _read(fields: Mapping[str, Any]) -> Preset:
    return Preset(
        source=fields["source"],
        n=fields["n"],
        temperatures=tuple(fields["temperatures"]),
        top_p=fields["top_p"],
        max_new_tokens=fields["max_new_tokens"],
        k=tuple(fields["k"]),
        prompt_style=fields.get("prompt_style", "bare"),
    )


def find_preset(name: str) -> Preset:
    """`ConfigError` where there is none of that name."""
    known = presets()
    if name not in known:
        raise ConfigError(f"--preset {name!r} is unknown{suggest(name, known)}; there are {', '.join(known)}")
    return known[name]
