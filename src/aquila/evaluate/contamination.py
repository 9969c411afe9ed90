"""How much of a benchmark a corpus holds: `aquila eval contamination`, and what a report says of it.

A score says little where a model has read the answers. Which words and characters are compared: `overlap.py`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aquila import __version__
from aquila.data.sidecar import tokenizer_digest
from aquila.data.vocabulary import shard_fingerprint
from aquila.errors import EvaluationError
from aquila.evaluate.contamination_items import Items
from aquila.evaluate.contamination_worker import Task, search_all
from aquila.evaluate.corpus import Counts, Stretch, plan_corpus
from aquila.evaluate.overlap import CHARACTERS, WORDS, Found, Index, Part
from aquila.evaluate.run_folder import read_facts
from aquila.evaluate.run_results import task_order
from aquila.files import atomic_write, sha256_file
from aquila.tokenizer.tokenizer import Tokenizer

FORMAT, VERSION = "aquila-contamination", 1
FILE = "contamination.json"  # in the directory of a run
Progress = Callable[[int, int], None]  # stretches done and in all


def find_contamination(
    items: Items,
    inputs: Sequence[Path],
    *,
    tokenizer: Tokenizer | None = None,
    text_key: str | None = None,
    workers: int = 1,
    training_data: str | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Looks a benchmark up in a corpus. The answer does not depend on the number of workers.

    Args:
        items: what to look for.
        inputs: as `plan_corpus` takes them.
        tokenizer: that made the shards among them.
        text_key: field or column that holds the text; None reads all texts of a record.
        workers: processes.
        training_data: digest of the training data that the corpus is, where it is that of a model.
        progress: called as parts of the corpus are done.

    Raises:
        ConfigError: an input does not exist, or is a shard and there is no tokenizer.
        DataError: a file is damaged.
    """
    stretches, shards = plan_corpus(inputs, tokenizer)
    index = Index(items.parts)
    merged: dict[int, _Merged] = {}
    total = Counts()
    before: dict[tuple[str, Path], int] = {}  # records of a file in the stretches before
    task = Task(items.parts, text_key, tokenizer)
    for stretch, counts, found in search_all(task, index, stretches, workers=workers, progress=progress):
        place = (stretch.kind, stretch.paths[0])
        first = before.get(place, 0)
        for part, each in found.items():
            merged.setdefault(part, _Merged()).add(each, stretch, first)
        before[place] = first + counts.records
        for name in ("records", "documents", "bytes", "skipped"):
            setattr(total, name, getattr(total, name) + getattr(counts, name))
    listed = _list_items(items.parts, index, merged)
    return {
        "format": FORMAT,
        "format_version": VERSION,
        "bench": items.to_json(),
        "rules": {"words": WORDS, "characters": CHARACTERS},
        "corpus": {
            "inputs": [str(path) for path in inputs],
            "digest": _digest(stretches, shards),
            "num_documents": total.documents,
            "num_bytes": total.bytes,
            "num_skipped": total.skipped,
            "text_key": text_key,
            "tokenizer": tokenizer_digest(tokenizer) if shards and tokenizer else None,
            "training_data": training_data,
        },
        **_summary(items.parts, index, listed),
        "items": listed,
        "version": __version__,
    }


def read_contamination(path: Path) -> dict[str, Any]:
    """What `aquila eval contamination` wrote.

    Raises:
        EvaluationError: it is something else.
    """
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}; give a contamination.json") from None
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: is not JSON ({error}); look again with `aquila eval contamination`") from None
    if not isinstance(record, dict) or (record.get("format"), record.get("format_version")) != (FORMAT, VERSION):
        raise EvaluationError(f"{path}: is not what this version writes; look again with `aquila eval contamination`")
    return record


def write_contamination(record: Mapping[str, Any], path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")


def attach(record: Mapping[str, Any], run: Path) -> Path:
    """Puts it into the directory of a run, for its reports.

    Raises:
        EvaluationError: the run is of another benchmark, or none.
    """
    theirs, ours = read_facts(run)["data"].get("sha256"), record["bench"]["sha256"]
    if theirs != ours:
        raise EvaluationError(
            f"{run}: is a run on data with sha256 {str(theirs)[:12]}, the search was for that with {ours[:12]} "
            f"({record['bench']['file']}); give the run's own benchmark"
        )
    write_contamination(record, run / FILE)
    return run / FILE


class _Merged:
    """What all stretches found of a part."""

    def __init__(self) -> None:
        self.words: set[int] = set()
        self.characters: set[int] = set()
        self.longest = 0
        self.examples: list[dict[str, str]] = []

    def add(self, found: Found, stretch: Stretch, first: int) -> None:
        self.words |= found.words
        self.characters |= found.characters
        self.longest = max(self.longest, found.longest)
        for record, text in found.examples:
            if len(self.examples) < 3:
                self.examples.append({"where": _where(stretch, first, record), "text": text})


def _where(stretch: Stretch, first: int, record: int) -> str:
    path = stretch.paths[0]
    if stretch.kind == "files":
        return str(stretch.paths[record])
    if stretch.kind == "piece":
        return f"{path}, byte {stretch.start} or after"
    if stretch.kind == "shard":
        return f"{path}, document {stretch.start + record}"
    return f"{path}, {'line' if stretch.kind == 'lines' else 'row'} {first + record + 1}"


def _list_items(parts: Sequence[Part], index: Index, merged: Mapping[int, _Merged]) -> list[dict[str, Any]]:
    """Items of which something was found, with all of their parts."""
    touched = {parts[number].item for number in merged}
    items: dict[str, dict[str, Any]] = {}
    for number, part in enumerate(parts):
        if part.item not in touched:
            continue
        found = merged.get(number, _Merged())
        items.setdefault(part.item, {})[part.name] = {
            "words": index.num_words[number],
            "words_found": len(found.words),
            "characters": index.num_characters[number],
            "characters_found": len(found.characters),
            "longest_characters": found.longest,
            "examples": found.examples,
        }
    return [{"task_id": item, "parts": items[item]} for item in sorted(items, key=task_order)]


def _summary(parts: Sequence[Part], index: Index, listed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    sizes = zip(index.num_words, index.num_characters, strict=True)
    mostly = [item for item in listed if any(_is_most(part) for part in item["parts"].values())]
    return {
        "num_items": len({part.item for part in parts}),
        "num_touched": len(listed),
        "num_mostly": len(mostly),
        "num_parts": len(parts),
        "num_parts_too_short": sum(not words and not characters for words, characters in sizes),
        "num_shared_runs": index.num_shared,
    }


def _is_most(part: Mapping[str, int]) -> bool:
    """Whether at least half of a part is there."""
    return any(part[kind] and 2 * part[f"{kind}_found"] >= part[kind] for kind in ("words", "characters"))


def _digest(stretches: Sequence[Stretch], shards: Sequence[Any]) -> str:
    """Of the names and bytes of all files."""
    files = dict.fromkeys(path for each in stretches if each.kind != "shard" for path in each.paths)
    known = [[path.name, sha256_file(path)] for path in files]
    known += [[shard.prefix.name, shard_fingerprint(shard)] for shard in shards]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()
