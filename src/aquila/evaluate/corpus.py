"""A corpus, read for what it has in common with a benchmark: all text of any file, token shards too.

Cut into stretches, so that several processes share the work and none holds more than one. Unlike training, nothing
is left out because its form is wrong: of a JSON record every text is read, and bytes that are no UTF-8 are passed by.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aquila.data.readers import Unit, parse_json, plan_units, read_lines
from aquila.data.shards import Shard, bin_path, idx_path, shard_prefix
from aquila.data.sidecar import tokenizer_digest
from aquila.errors import ConfigError, DataError
from aquila.tokenizer.tokenizer import Tokenizer

_PIECE_BYTES = 8 << 20  # of a large file of text
_OVERLAP_BYTES = 1 << 14
_STRETCH_TOKENS = 1 << 20
_PROBE_BYTES = 8192
_JSON_SUFFIXES = (".json", ".ipynb")
Kind = Literal["lines", "parquet", "files", "piece", "shard"]


@dataclass(frozen=True)
class Stretch:
    """What one process reads at a time: of a file bytes, of Parquet a row group, of a shard documents, or files."""

    kind: Kind
    paths: tuple[Path, ...]
    start: int = 0
    stop: int = -1

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "paths": [str(path) for path in self.paths]}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Stretch":
        return cls(record["kind"], tuple(map(Path, record["paths"])), record["start"], record["stop"])


@dataclass
class Counts:
    """What was read. `records` are lines, rows, documents or files, those without text too."""

    records: int = 0
    documents: int = 0
    bytes: int = 0  # of text, as UTF-8
    skipped: int = 0  # files that are no text, records that cannot be read


def plan_corpus(inputs: Sequence[Path], tokenizer: Tokenizer | None) -> tuple[list[Stretch], list[Shard]]:
    """Stretches in the order of the inputs, and the shards among these.

    Args:
        inputs: files as `aquila data pack` takes them, shards (prefix, .bin or .idx), or folders of any of these.
        tokenizer: that made the shards; needed where there are any.

    Raises:
        ConfigError: an input is not there, or there is a shard and no tokenizer.
        DataError: a shard is damaged, or was made by another tokenizer.
    """
    stretches: list[Stretch] = []
    shards: list[Shard] = []
    for path in inputs:
        found = _shards_in(path)
        for prefix in found:
            shards.append(_open_shard(prefix, tokenizer))
            stretches += _shard_stretches(shards[-1])
        if path.is_dir() or not found:
            stretches += _text_stretches(path, found)
    if not stretches:
        raise ConfigError(f"{', '.join(map(str, inputs))}: there is no text in it; give files or shards with some")
    return stretches, shards


def read_stretch(
    stretch: Stretch, counts: Counts, numbers: list[int], *, text_key: str | None, tokenizer: Tokenizer | None
) -> Iterator[str]:
    """The documents of a stretch.

    Args:
        stretch: of `plan_corpus`.
        counts: what was read is added to them.
        numbers: of the record that each document is, from 0 in the stretch on, are appended.
        text_key: field or column to read; None reads every text of a record.
        tokenizer: for shards.
    """
    for text in _records(stretch, text_key, tokenizer):
        if text is None:
            counts.skipped += 1
        elif text:
            counts.documents += 1
            counts.bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
            numbers.append(counts.records)
            yield text
        counts.records += 1


def _records(stretch: Stretch, text_key: str | None, tokenizer: Tokenizer | None) -> Iterator[str | None]:
    """Every record's text; None for one that cannot be read."""
    path = stretch.paths[0]
    if stretch.kind == "lines":
        for line in read_lines(Unit("lines", stretch.paths, stretch.start, stretch.stop)):
            record, reason = parse_json(line) if line.strip() else ("", "")
            yield None if reason else _text_of(record, text_key)
    elif stretch.kind == "parquet":
        yield from _parquet(path, stretch.start, text_key)
    elif stretch.kind == "shard":
        assert tokenizer is not None, "a plan with shards has a tokenizer"
        shard = Shard(path)
        for index in range(stretch.start, stretch.stop):
            yield tokenizer.decode(shard.document(index).tolist())
    elif stretch.kind == "piece":
        with path.open("rb") as file:
            file.seek(stretch.start)
            yield file.read(stretch.stop - stretch.start + _OVERLAP_BYTES).decode("utf-8", "replace")
    else:
        for each in stretch.paths:
            yield None if _is_binary(each) else _whole_file(each)


def _whole_file(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix in _JSON_SUFFIXES:  # or a line break in it would be a letter n
        record, reason = parse_json(data)
        if not reason:
            return "\n".join(strings_in(record))
    return data.decode("utf-8", "replace")


def _text_of(record: Any, text_key: str | None) -> str | None:
    if text_key is None:
        return "\n".join(strings_in(record))
    value = record.get(text_key) if isinstance(record, dict) else None
    return value if isinstance(value, str) else None


def strings_in(value: Any) -> Iterator[str]:
    """Every text in a JSON value, in its order."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            waiting += reversed(each.values())
        elif isinstance(each, (list, tuple)):
            waiting += reversed(each)


def _parquet(path: Path, group: int, text_key: str | None) -> Iterator[str | None]:
    from pyarrow import parquet  # noqa: PLC0415  an optional library; the plan has asked for it

    file = parquet.ParquetFile(path)
    names = file.schema_arrow.names
    if text_key is not None and text_key not in names:
        raise ConfigError(f"{path}: no column {text_key!r}; it has {', '.join(names)}; name one with --text-key")
    for batch in file.iter_batches(256, row_groups=[group], columns=[text_key] if text_key else None):
        for row in batch.to_pylist():
            yield _text_of(row, text_key)


def _shards_in(path: Path) -> list[Path]:
    """Prefixes of the token shards that a path names or, as a folder, holds."""
    if path.is_dir():
        prefixes = (shard_prefix(each) for each in sorted(path.rglob("*.idx")))
        return [prefix for prefix in prefixes if bin_path(prefix).is_file()]
    prefix = shard_prefix(path)
    named = path.suffix in (".bin", ".idx") or not path.exists()
    return [prefix] if named and idx_path(prefix).is_file() else []


def _open_shard(prefix: Path, tokenizer: Tokenizer | None) -> Shard:
    if tokenizer is None:
        raise ConfigError(f"{prefix}: a token shard; give the tokenizer that made it (--tokenizer)")
    shard = Shard(prefix)
    made_by, given = shard.sidecar.tokenizer if shard.sidecar else None, tokenizer_digest(tokenizer)
    if made_by not in (None, given):
        raise DataError(
            f"{prefix}: its ids were made by tokenizer {made_by[:12]}, the one given is {given[:12]}: what it says "
            "would be no text; give the tokenizer that made it"
        )
    highest = max((int(shard.tokens[at : at + _STRETCH_TOKENS].max()) for at in _starts(shard.num_tokens)), default=0)
    if highest >= tokenizer.vocab_size:
        raise DataError(
            f"{prefix}: holds id {highest}, the tokenizer has {tokenizer.vocab_size} ids; give the one that made it"
        )
    return shard


def _starts(num_tokens: int) -> range:
    return range(0, num_tokens, _STRETCH_TOKENS)


def _shard_stretches(shard: Shard) -> Iterator[Stretch]:
    start = 0
    while start < shard.num_documents:
        after = int(np.searchsorted(shard.starts, shard.starts[start] + _STRETCH_TOKENS))
        stop = min(max(after, start + 1), shard.num_documents)
        yield Stretch("shard", (shard.prefix,), start, stop)
        start = stop


def _text_stretches(path: Path, shards: Sequence[Path]) -> Iterator[Stretch]:
    parts_of_shards = {file for prefix in shards for file in (bin_path(prefix), idx_path(prefix))}
    for unit in plan_units([path]):
        if unit.kind != "files":
            yield Stretch(unit.kind, unit.paths, unit.start, unit.stop)
            continue
        small = []
        for file in unit.paths:
            size = file.stat().st_size
            if file in parts_of_shards:
                continue
            if size <= 2 * _PIECE_BYTES or file.suffix in _JSON_SUFFIXES or _is_binary(file):
                small.append(file)
            else:
                yield from (
                    Stretch("piece", (file,), at, min(at + _PIECE_BYTES, size)) for at in range(0, size, _PIECE_BYTES)
                )
        if small:
            yield Stretch("files", tuple(small))


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" in file.read(_PROBE_BYTES)
