"""Settings: sizes in bytes, YAML files, and validated trees of options.

    defaults of the model class  <  YAML files, left to right  <  `key.sub=value` overrides

YAML is 1.2: `3e-4` is a number, `no` is text, and a key given twice is an error. Every failure is a
`ConfigError` that names the file (and line where there is one), the field, and what it may be. Importing this
module loads neither pydantic nor ruamel.yaml.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from aquila.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

    Settings = TypeVar("Settings", bound=BaseModel)

_DECIMAL = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BINARY = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_UNITS = {"": 1, "b": 1, **_DECIMAL, **_BINARY, **{f"{unit}ib": size for unit, size in _BINARY.items()}}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*([a-z]*)")
_SHIFT = re.compile(r"(\d{1,18})\s*<<\s*(\d{1,2})")
_MAX_SIZE = 1 << 62


def parse_size(size: str | int) -> int:
    """Bytes in `2GiB`, `500MB`, `1.5g`, `2<<30` or a plain number.

    `KB MB GB TB` are powers of 1000; `KiB MiB GiB TiB` and the bare letters `k m g t` are powers of 1024.
    """
    text = str(size).strip().lower()
    if shift := _SHIFT.fullmatch(text):
        value = int(shift[1]) << int(shift[2])
    elif (match := _SIZE.fullmatch(text)) and match[2] in _UNITS:
        number = float(match[1]) if "." in match[1] else int(match[1])
        value = int(number * _UNITS[match[2]])
    else:
        raise ConfigError(f"{size!r} is not a size; write bytes as 2GiB, 500MB, 1.5g, 2<<30 or a plain number")
    if value > _MAX_SIZE:
        raise ConfigError(f"size {size!r} is beyond any machine; the largest accepted is {_MAX_SIZE} bytes")
    return value


def format_size(num_bytes: int) -> str:
    """`13.6 GiB`: three figures and a binary unit, the inverse of `parse_size` for people."""
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB" if value < 999.5 else f"{value:.0f} TiB"


def suggest(word: str, known: Iterable[str]) -> str:
    """The tail of an "unknown" message: `; did you mean 'lr'?`, or the whole list when nothing is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML 1.2 file; an empty file is an empty mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return read_yaml_text(text, where=str(path))


def read_yaml_text(text: str, *, where: str) -> dict[str, Any]:
    """The mapping in a YAML 1.2 text; `where` leads the messages."""
    data = _parse_yaml(text, where)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected `key: value` lines at the top, got a {type(data).__name__}")
    _check_keys(data, where)
    return data


def load_config(model_class: "type[Settings]", files: Sequence[Path] = (), overrides: Sequence[str] = ()) -> "Settings":
    """Builds and validates settings: defaults < `files` left to right < `overrides` like `optimizer.lr=3e-4`.

    Mappings merge key by key; any other value, lists too, replaces the one before it. An override's value is
    read as YAML, so `lr=3e-4` is a number, `names=[a, b]` a list and `seed=null` nothing.

    Raises:
        ConfigError: one line for each unusable field, naming the file that it came from.
    """
    from pydantic import ValidationError  # noqa: PLC0415  keeps `import aquila.config` light

    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}  # dotted key -> the file that set it last
    for path in files:
        _merge(merged, read_yaml(path), origins, source=f"{path}: ")
    for override in overrides:
        _merge(merged, _parse_override(override), origins, source="")
    try:
        return model_class.model_validate(merged)
    except ValidationError as error:
        lines = [_explain(model_class, detail, origins) for detail in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _parse_yaml(text: str, where: str) -> Any:
    from ruamel.yaml import YAML  # noqa: PLC0415  keeps `import aquila.config` light
    from ruamel.yaml.constructor import DuplicateKeyError  # noqa: PLC0415
    from ruamel.yaml.error import MarkedYAMLError, YAMLError  # noqa: PLC0415

    try:
        return YAML(typ="safe", pure=True).load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line
        key = text.splitlines()[line][error.problem_mark.column :].partition(":")[0].strip()
        raise ConfigError(f"{where}:{line + 1}: {key!r} is given twice; keep one") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{where}:{line}: not valid YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply to be a config") from None


def _check_keys(data: dict[Any, Any], where: str) -> None:
    for key, value in data.items():
        if not isinstance(key, str):
            raise ConfigError(f"{where}: key {key!r} is not text; put it in quotes")
        if isinstance(value, dict):
            _check_keys(value, where)


def _parse_override(override: str) -> dict[str, Any]:
    """`optimizer.lr=3e-4` -> `{"optimizer": {"lr": 0.0003}}`."""
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{override!r} is not an override; write key.sub=value, such as optimizer.lr=3e-4")
    tree: Any = _parse_yaml(value, override)
    for part in reversed(parts):
        tree = {part: tree}
    return tree


def _merge(
    base: dict[str, Any], extra: Mapping[str, Any], origins: dict[str, str], *, source: str, prefix: str = ""
) -> None:
    for key, value in extra.items():
        origins[prefix + key] = source
        if not isinstance(value, dict):
            base[key] = value
            continue
        if not isinstance(base.get(key), dict):
            base[key] = {}
        _merge(base[key], value, origins, source=source, prefix=f"{prefix}{key}.")


def _explain(model_class: "type[BaseModel]", detail: Any, origins: Mapping[str, str]) -> str:
    """One of pydantic's errors in our words: `train.yaml: optimizer.lrr: unknown key; did you mean 'lr'?`."""
    location: tuple[str | int, ...] = detail["loc"]
    field = ".".join(str(part) for part in location)
    known_prefixes = [origins[name] for name in _prefixes(field) if name in origins]
    where = (known_prefixes[0] if known_prefixes else "") + (f"{field}: " if field else "")
    if detail["type"] == "extra_forbidden":
        return f"{where}unknown key{suggest(str(location[-1]), _fields_at(model_class, location[:-1]))}"
    if detail["type"] == "missing":
        return f"{where}is required; add it to the file or pass {field}=VALUE"
    return where + _expectation(detail)


def _prefixes(field: str) -> list[str]:
    """`a.b.c` -> `a.b.c`, `a.b`, `a`: the nearest enclosing key tells where a value came from."""
    parts = field.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "dict": "`key: value` lines",
    "model": "`key: value` lines",
    "path": "a path",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}


def _expectation(detail: Any) -> str:
    """What a field accepts and what it got: `must be positive, got 0`."""
    kind, context, shown = detail["type"], detail.get("ctx", {}), f", got {detail['input']!r:.60}"
    if kind == "value_error":
        return detail["msg"].removeprefix("Value error, ")
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        bound = context[name]
        return f"must be {'positive' if kind == 'greater_than' and bound == 0 else f'{words} {bound}'}{shown}"
    if kind in {"literal_error", "enum"}:
        return f"expected {re.sub(r', | or ', ' | ', context['expected'])}{shown}"
    family = kind.partition("_")[0]
    if family in _KINDS and not kind.endswith(("_short", "_long")):
        return f"expected {_KINDS[family]}{shown}"
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}{shown}"


def _fields_at(model_class: "type[BaseModel]", location: Sequence[str | int]) -> set[str]:
    """Names of the fields that the settings class accepts at a place in its tree."""
    classes = [model_class]
    for part in location:
        annotations = [each.model_fields[part].annotation for each in classes if part in each.model_fields]
        if annotations:  # a list index or the tag of a union stays at the same classes
            classes = [found for annotation in annotations for found in _models_in(annotation)]
    return {name for each in classes for name in each.model_fields}


def _models_in(annotation: Any) -> "list[type[BaseModel]]":
    """The settings classes inside `Optimizer | None`, `list[Source]` or `dict[str, Source]`."""
    from pydantic import BaseModel  # noqa: PLC0415  keeps `import aquila.config` light

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _models_in(inner)]
