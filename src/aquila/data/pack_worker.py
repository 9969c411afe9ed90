"""One process of `aquila data pack`: encodes units of the input, a small shard each.

Run as `python -m aquila.data.pack_worker FOLDER`. It reads a line of JSON from standard input for each unit, answers
with one, and ends when its input does: with the program that started it.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aquila.data.readers import Fault, Text, Unit, read_unit
from aquila.data.shards import token_dtype, write_shard
from aquila.errors import AquilaError, ConfigError
from aquila.files import atomic_write
from aquila.tokenizer.load import load_tokenizer
from aquila.tokenizer.tokenizer import Tokenizer


@dataclass
class Counts:
    """What became of the records of a unit, or of all. `invalid` names them: line in the unit, file or "", reason."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0  # of text
    lines: int = 0  # read, blank ones too
    empty: int = 0
    binary: int = 0  # files of a folder that are no text
    invalid: list[tuple[int, str, str]] = field(default_factory=list)


def encode_unit(unit: Unit, part: Path, tokenizer: Tokenizer, *, text_key: str) -> Counts:
    """Writes the documents of a unit as the shard `part`, and what was counted beside it, which marks it as done."""
    counts = Counts()
    with write_shard(part, token_dtype(tokenizer.vocab_size)) as writer:
        for document in _documents(unit, counts, text_key):
            writer.add(frame(tokenizer, document))
            counts.bytes += len(document.encode())
        counts.documents, counts.tokens = len(writer.lengths), writer.num_tokens
    with atomic_write(counts_path(part)) as temporary:
        temporary.write_text(json.dumps(asdict(counts)), encoding="utf-8")
    return counts


def frame(tokenizer: Tokenizer, text: str) -> list[int]:
    """A document as models read it: begin token where the vocabulary has one, the text, end token."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [*begin, *tokenizer.encode(text), tokenizer.eos_token_ids[0]]


def counts_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.counts.json")


def read_counts(part: Path) -> Counts:
    values: dict[str, Any] = json.loads(counts_path(part).read_text(encoding="utf-8"))
    values["invalid"] = [tuple(each) for each in values["invalid"]]  # JSON makes lists of them
    return Counts(**values)


def _documents(unit: Unit, counts: Counts, text_key: str) -> Iterator[str]:
    for record in read_unit(unit, text_key=text_key):
        counts.lines += 1
        match record:
            case Text(text=""):
                counts.empty += 1
            case Text(text=text):
                yield text
            case Fault(binary=True):
                counts.binary += 1
            case Fault(reason=reason, line=line, path=path):
                counts.invalid.append((line, str(path or ""), reason))


def main(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "tokenizer")
    for line in sys.stdin:
        task = json.loads(line)
        unit = Unit(task["kind"], tuple(map(Path, task["paths"])), task["start"], task["stop"])
        try:
            encode_unit(unit, folder / task["part"], tokenizer, text_key=task["text_key"])
            answer = {"done": task["part"]}
        except AquilaError as error:
            answer = {"error": str(error), "usage": isinstance(error, ConfigError)}
        except OSError as error:
            answer = {"error": f"{error.filename or unit.paths[0]}: {error.strerror or error}", "usage": False}
        try:
            print(json.dumps(answer), flush=True)  # noqa: T201  the protocol
        except BrokenPipeError:  # whoever started us was killed
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # or Python complains when it flushes at exit
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
