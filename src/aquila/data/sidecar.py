"""Who a tokenizer is, and the note beside a shard that says which one made it.

Ids mean nothing without their vocabulary, and the index of a shard does not name it. `PREFIX.json` does, so that a
model is never trained on the ids of another vocabulary.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aquila.errors import DataError
from aquila.files import atomic_write
from aquila.tokenizer.tokenizer import Tokenizer

_PROBE = (  # how a vocabulary cuts text, without naming its patterns, which each library writes in another way
    "def f(x2, *, n=1024):\n    return [x2 + 3.14159]  # don't, I'll 0x1F\n\n\n\tpass\r\n",
    "汽车EDR是什么？２０２４年，它记录“碰撞”前后的数据。",
    " Ünïcödé naïve café — 한국어 日本語 🙂🙂  \t ",
)


@lru_cache(maxsize=4)  # 0.3 s for 100,000 entries
def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """SHA-256 over what a tokenizer does to text: its entries and their ids, its merges, and how it cuts a probe.

    The same for every file form that a vocabulary comes in. Which tokens begin and end a text, and the chat template,
    are no part of it: a model and its chat version share a vocabulary.
    """
    model = json.loads(tokenizer.backend.to_str())["model"]
    entries = sorted((token_id, text) for text, token_id in tokenizer.backend.get_vocab(with_added_tokens=True).items())
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    probe = [tokenizer.encode(text) for text in _PROBE]
    described = json.dumps([entries, merges, probe], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(described.encode()).hexdigest()


class Sidecar(BaseModel):
    """What made a shard. Fields that this version does not know are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tokenizer: str = Field(pattern="[0-9a-f]{64}")  # `tokenizer_digest`
    vocab_size: int = Field(gt=0)
    bos_token_id: int | None  # begins each document
    eos_token_id: int | None  # ends each document
    num_documents: int = Field(ge=0)
    num_tokens: int = Field(ge=0)
    num_bytes: int = Field(ge=0)  # of text, as UTF-8
    num_invalid: int = Field(0, ge=0)  # records that were left out
    sha256: str  # of the .bin

    @classmethod
    def read(cls, prefix: Path) -> "Sidecar | None":
        """None where there is none: the shard is another program's."""
        path = sidecar_path(prefix)
        if not path.is_file():
            return None
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (ValidationError, ValueError) as error:
            reason = _first_line(error)
            raise DataError(
                f"{path}: not what `aquila data pack` writes ({reason}); pack again, or remove the file if the shard "
                "is another program's"
            ) from None

    def write(self, prefix: Path) -> None:
        with atomic_write(sidecar_path(prefix)) as temporary:
            temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def check_counts(self, prefix: Path, num_documents: int, num_tokens: int) -> None:
        """`DataError` unless it belongs to a shard of such a size."""
        if (num_documents, num_tokens) != (self.num_documents, self.num_tokens):
            raise DataError(
                f"{sidecar_path(prefix)}: speaks of {self.num_documents} documents and {self.num_tokens} tokens, the "
                f"shard beside it has {num_documents} and {num_tokens}; pack again"
            )


def sidecar_path(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.json")


def _first_line(error: Any) -> str:
    if isinstance(error, ValidationError):
        detail = error.errors()[0]
        return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
    return str(error).splitlines()[0]
