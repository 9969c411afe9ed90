"""Small real data that tests of the data package and of training share."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parts import tiny_tokenizer

if TYPE_CHECKING:
    from aquila.data.loader import Loader
    from aquila.data.shards import Shard
    from aquila.tokenizer.tokenizer import Tokenizer

TEXTS = tuple(
    f"def add_{number}(a, b):\n    # 第{number}个函数：相加\n    return a + b + {number}\n" * (1 + number % 5)
    for number in range(30)
)


def write_documents(prefix: Path, documents: Sequence[Sequence[int]], *, vocab_size: int = 320) -> "Shard":
    """A shard of another program: no note of a tokenizer beside it."""
    from aquila.data.shards import Shard, token_dtype, write_shard

    with write_shard(prefix, token_dtype(vocab_size)) as writer:
        for document in documents:
            writer.add(document)
    return Shard(prefix)


def pack_texts(prefix: Path, texts: Sequence[str] = TEXTS, tokenizer: "Tokenizer | None" = None) -> "Shard":
    """A shard as `aquila data pack` makes it, with the tiny tokenizer."""
    from aquila.data.pack import pack
    from aquila.data.shards import Shard

    source = write_jsonl(prefix.with_name(f"{prefix.name}.jsonl"), [{"text": text} for text in texts])
    pack([source], tokenizer or tiny_tokenizer(), prefix)
    return Shard(prefix)


def write_jsonl(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


def loader_of(
    prefix: Path, *, global_batch_size: int = 4, seed: int = 1, stage: str = "pretrain", **data: Any
) -> "Loader":
    """A loader of one shard for the tiny tokenizer; `data` are more fields of the config."""
    from aquila.data.config import DataConfig
    from aquila.data.loader import open_loader

    tokenizer = tiny_tokenizer()
    fields = {"path": prefix, "sequence_length": 32} if stage != "sft" else {"sft": [prefix], "sequence_length": 64}
    return open_loader(
        DataConfig.model_validate({**fields, **data}),
        stage=stage,
        tokenizer=tokenizer,
        vocab_size=tokenizer.vocab_size,
        global_batch_size=global_batch_size,
        seed=seed,
    )
