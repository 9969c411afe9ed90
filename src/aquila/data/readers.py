"""Texts out of files: JSON lines (plain, .zst, .gz), Parquet, plain text and source trees.

A file that is large and can be read from the middle is cut into `Unit`s, so that several processes share the work and
a run that was stopped goes on. Which units there are depends on the files alone. A record that cannot be used does
not stop the others: it comes out as a `Fault` that names its place.
"""

import gzip
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from aquila.errors import ConfigError, DataError

UNIT_BYTES = 4 << 20
_READ_BYTES = 1 << 18
_BINARY_PROBE_BYTES = 8192
_UTF8_MARK = b"\xef\xbb\xbf"
_LINE_SUFFIXES = (".jsonl", ".ndjson")
_PACKED_SUFFIXES = (".zst", ".gz")
_SKIPPED_FOLDERS = ("__pycache__", "node_modules")

Kind = Literal["lines", "parquet", "files"]


@dataclass(frozen=True)
class Unit:
    """A part of the input that one process reads.

    Attributes:
        kind: JSON lines, a row group of a Parquet file, or whole files.
        paths: the file; several for `files`.
        start: first byte, or the row group.
        stop: byte to stop at: a line that begins before it belongs to the unit. -1: the end of the file.
    """

    kind: Kind
    paths: tuple[Path, ...]
    start: int = 0
    stop: int = -1


@dataclass(frozen=True)
class Text:
    """A document. `line` counts from 1 in its unit; 0 for a whole file."""

    text: str
    line: int


@dataclass(frozen=True)
class Fault:
    """A record that cannot be used, and why. `path` is set for a whole file."""

    reason: str
    line: int
    path: Path | None = None
    binary: bool = False  # an image or a program among sources: no text at all


def plan_units(inputs: Sequence[Path], *, include: Sequence[str] = ()) -> list[Unit]:
    """Cuts files and folders into units, in the order given; files of a folder in the order of their names.

    Args:
        inputs: .jsonl, .jsonl.zst, .jsonl.gz, .parquet, any other file as text, or folders of such files.
        include: patterns such as `*.py`; other files of a folder are left out.

    Raises:
        ConfigError: an input does not exist, or a folder has no file that is wanted.
    """
    units: list[Unit] = []
    gathered, gathered_bytes = [], 0  # small files make one unit together
    for path in chain.from_iterable(_files(path, include) for path in inputs):
        kind = _kind(path)
        if kind == "files":
            gathered.append(path)
            gathered_bytes += path.stat().st_size
        if gathered and (kind != "files" or gathered_bytes >= UNIT_BYTES):
            units.append(Unit("files", tuple(gathered)))
            gathered, gathered_bytes = [], 0
        if kind == "lines":
            units += _line_units(path)
        elif kind == "parquet":
            units += [Unit("parquet", (path,), group) for group in range(_open_parquet(path).num_row_groups)]
    return [*units, Unit("files", tuple(gathered))] if gathered else units


def read_unit(unit: Unit, *, text_key: str) -> Iterator[Text | Fault]:
    """The documents of a unit. `text_key` names the field or column that holds the text."""
    if unit.kind == "files":
        return map(_whole_file, unit.paths)
    path = unit.paths[0]
    if unit.kind == "parquet":
        return _parquet_texts(path, unit.start, text_key)
    return (_line_text(line, number, text_key) for number, line in enumerate(read_lines(unit), start=1))


def read_lines(unit: Unit) -> Iterator[bytes]:
    """The lines of a unit of JSON lines, without their ends."""
    path = unit.paths[0]
    if path.suffix == ".zst":
        yield from _split_lines(_zstd_blocks(path))
    elif path.suffix == ".gz":
        yield from _split_lines(_gzip_blocks(path))
    else:
        with path.open("rb") as file:
            if unit.start:
                file.seek(unit.start - 1)
                file.readline()  # the end of a line that belongs to the unit before
            while (unit.stop < 0 or file.tell() < unit.stop) and (line := file.readline()):
                yield _bare(line, first=file.tell() == len(line))


def parse_json(line: bytes) -> tuple[Any, str]:
    """The value of a JSON line and "", or None and what is wrong with it."""
    try:
        return json.loads(line.decode("utf-8")), ""
    except UnicodeDecodeError as error:
        return None, f"byte {error.start} (0x{line[error.start]:02x}) is not UTF-8"
    except json.JSONDecodeError as error:
        return None, f"not valid JSON: {error.msg} at character {error.pos + 1}"
    except ValueError:  # Python's limit, since the time to read such a number grows with the square of its digits
        return None, f"a number of more than {sys.get_int_max_str_digits()} digits"
    except RecursionError:
        return None, "not valid JSON: nested too deeply"


def surrogate_fault(text: str) -> str:
    """What is wrong with a text that UTF-8 cannot write; "" for all others."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half a surrogate pair (U+{ord(text[error.start]):04X}) at character {error.start + 1}"
    return ""


def is_json_lines(path: Path) -> bool:
    name = path.name.removesuffix(".zst").removesuffix(".gz") if path.suffix in _PACKED_SUFFIXES else path.name
    return name.endswith(_LINE_SUFFIXES)


def _kind(path: Path) -> Kind:
    if is_json_lines(path):
        return "lines"
    return "parquet" if path.suffix == ".parquet" else "files"


def _files(path: Path, include: Sequence[str]) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(f"{path}: no such file or folder; give files or folders with text")
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _SKIPPED_FOLDERS)
        wanted = (name for name in sorted(names) if not name.startswith("."))
        found += [Path(folder, name) for name in wanted if not include or any(fnmatch(name, p) for p in include)]
    if not found:
        what = f" that matches {' or '.join(include)}" if include else ""
        raise ConfigError(f"{path}: this folder has no file{what}; give one with text")
    return [file for file in found if file.is_file()]


def _line_units(path: Path) -> list[Unit]:
    size = path.stat().st_size
    if path.suffix in _PACKED_SUFFIXES:  # cannot be read from the middle
        return [Unit("lines", (path,))]
    return [Unit("lines", (path,), start, min(start + UNIT_BYTES, size)) for start in range(0, size, UNIT_BYTES)]


def _line_text(line: bytes, number: int, text_key: str) -> Text | Fault:
    if not line.strip():
        return Text("", number)
    record, reason = parse_json(line)
    if not reason and not isinstance(record, dict):
        reason = f"a JSON {type(record).__name__}, expected an object"
    if not reason and not isinstance(record.get(text_key), str):
        reason = f"no text in field {text_key!r}"
    if not reason:
        reason = surrogate_fault(record[text_key])
    return Fault(reason, number) if reason else Text(record[text_key], number)


def _whole_file(path: Path) -> Text | Fault:
    with path.open("rb") as file:
        data = file.read(_BINARY_PROBE_BYTES)
        if b"\0" in data:  # perhaps a large one
            return Fault("a binary file", 0, path, binary=True)
        data = (data + file.read()).removeprefix(_UTF8_MARK)
    try:
        return Text(data.decode("utf-8"), 0)
    except UnicodeDecodeError as error:
        return Fault(f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8", 0, path)


def _parquet_texts(path: Path, group: int, text_key: str) -> Iterator[Text | Fault]:
    file = _open_parquet(path)
    names = file.schema_arrow.names
    if text_key not in names:
        raise ConfigError(f"{path}: no column {text_key!r}; it has {', '.join(names)}; name one with --text-key")
    column = file.read_row_group(group, columns=[text_key]).column(0)
    for number, value in enumerate(column.to_pylist(), start=1):
        if isinstance(value, str):
            yield Text(value, number)
        else:
            yield Fault(f"column {text_key!r} holds a {type(value).__name__}, not a text", number)


def _open_parquet(path: Path) -> Any:
    try:
        import pyarrow  # noqa: PLC0415  an optional library
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise ConfigError(f"{path}: reading Parquet needs pyarrow; pip install 'aquila-lm[data]'") from None
    try:
        return parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file, or damaged: {str(error).splitlines()[0]}") from None


def _zstd_blocks(path: Path) -> Iterator[bytes]:
    try:
        import zstandard  # noqa: PLC0415  an optional library
    except ImportError:
        raise ConfigError(f"{path}: reading .zst needs zstandard; pip install 'aquila-lm[data]'") from None
    whole = False  # zstandard's own reader takes a file that ends early for a short one
    with path.open("rb") as file:
        decoder = zstandard.ZstdDecompressor().decompressobj()
        while data := file.read(_READ_BYTES):
            while data:
                try:
                    yield decoder.decompress(data)
                except zstandard.ZstdError as error:
                    raise DataError(f"{path}: damaged: {error}; fetch it again") from None
                whole, data = decoder.eof, b""
                if whole:  # a file may be several in a row
                    data = decoder.unused_data
                    decoder = zstandard.ZstdDecompressor().decompressobj()
    if not whole:
        raise DataError(f"{path}: ends early; fetch it again")


def _gzip_blocks(path: Path) -> Iterator[bytes]:
    with gzip.open(path) as file:
        while True:
            try:
                data = file.read(_READ_BYTES)
            except (EOFError, OSError, zlib.error) as error:
                raise DataError(f"{path}: damaged, or ends early: {error}; fetch it again") from None
            if not data:
                return
            yield data


def _split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    first, rest = True, b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield _bare(line, first=first)
            first = False
    if rest:
        yield _bare(rest, first=first)


def _bare(line: bytes, *, first: bool) -> bytes:
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    return line.removeprefix(_UTF8_MARK) if first else line
