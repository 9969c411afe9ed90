"""A folder's texts, and the language of each: programming languages by the files' names, prose by its letters."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from aquila.config import read_yaml_text
from aquila.data.readers import Fault, plan_units, read_unit

_HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]")
_LETTER = re.compile(r"[^\W\d_]")
_ZH_SHARE = 0.3  # of the letters of a text that is called Chinese


@dataclass(frozen=True)
class TreeText:
    """A text. `name` says where it is from."""

    name: str
    language: str
    text: str


@dataclass(frozen=True)
class Skipped:
    """What has no text to score, and why."""

    name: str
    reason: str


def read_tree(folder: Path, *, text_key: str = "text") -> Iterator[TreeText | Skipped]:
    """Every text below a folder, in the order of names: source files whole, JSON lines one by one.

    Folders and files whose name begins with a dot are left out, as are binary files and Parquet.

    Raises:
        ConfigError: there is no such folder, or no file in it.
    """
    for unit in plan_units([folder]):
        if unit.kind == "parquet":
            yield Skipped(str(unit.paths[0]), "Parquet; pack it, or give its texts as JSON lines")
            continue
        for place, found in enumerate(read_unit(unit, text_key=text_key)):
            path = unit.paths[place] if unit.kind == "files" else unit.paths[0]
            name = f"{path}:{found.line}" if found.line else str(path)
            if isinstance(found, Fault):
                yield Skipped(name, found.reason)
            elif not found.text.strip():
                yield Skipped(name, "empty")
            else:
                yield TreeText(name, language_of_file(path, found.text), found.text)


def language_of_file(path: Path, text: str) -> str:
    """`python`, `go` and so on; of prose, and of names that say nothing, `zh` or `en`."""
    known = _languages()
    found = known.get(path.name) or known.get(path.suffix.lower())
    return found if found and path.suffix != ".jsonl" else language_of_prose(text)


def language_of_prose(text: str) -> str:
    letters = len(_LETTER.findall(text))
    return "zh" if letters and len(_HAN.findall(text)) > _ZH_SHARE * letters else "en"


@cache
def _languages() -> Mapping[str, str]:
    """By a file's whole name, or by `.` and its suffix."""
    listed = read_yaml_text(
        (files("aquila.evaluate") / "languages.yaml").read_text(encoding="utf-8"), where="languages.yaml"
    )
    by_suffix = {f".{suffix}": name for name, suffixes in listed["suffixes"].items() for suffix in suffixes}
    return by_suffix | listed["names"]
