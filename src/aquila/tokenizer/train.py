"""Trains a byte-level BPE vocabulary.

The same texts give the same file, whatever their order and the number of cores. Words are cut with GPT-2's
pattern after setting every digit apart (`smollm` in GGUF files): a newline stays with the indentation that
follows it, which is one token in code; numbers are spelled digit by digit; and a run of Chinese is one word,
so that frequent phrases become tokens of their own.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from aquila.errors import ConfigError
from aquila.tokenizer.byte_level import pre_tokenizer
from aquila.tokenizer.specials import AQUILA_SPECIALS, END_OF_TEXT, FIM_NAMES
from aquila.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)

PIECE_MARKS = AQUILA_SPECIALS[:2]  # <|startofpiece|> and <|endofpiece|>, which the aquila-v1 chat template needs

SPECIALS: tuple[str, ...] = (
    END_OF_TEXT,  # id 0: between documents, and padding
    *FIM_NAMES.values(),
    *PIECE_MARKS,
    "</s>",  # end of a turn in the Aquila chat templates
    "<|im_start|>",
    "<|im_end|>",
)

MAX_TOKEN_BYTES = 64  # beyond this, entries are single lines of licences and rulers of dashes
MAX_VOCAB_SIZE = 1 << 22  # the bound of ModelConfig
READ_CHARACTERS = 1 << 20


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int,
    specials: Sequence[str] = SPECIALS,
    min_frequency: int = 2,
    progress: bool = False,
) -> Tokenizer:
    """Learns a vocabulary from texts, which are read once and not kept.

    Args:
        texts: documents, or large pieces of documents.
        vocab_size: number of ids, specials included. Fewer come out when the texts are too few.
        specials: special tokens, ids from 0; the first one stands between documents.
        min_frequency: pairs seen less often are not merged.
        progress: show the library's progress bars on stderr.

    Raises:
        ConfigError: `vocab_size` leaves no room for the bytes and specials, or no model could have it.
    """
    smallest = 256 + len(specials)
    if vocab_size < smallest:
        raise ConfigError(
            f"vocab_size is {vocab_size}; 256 bytes and {len(specials)} specials need at least {smallest}"
        )
    if vocab_size > MAX_VOCAB_SIZE:  # the library allocates a table of so many entries at once, or aborts the process
        raise ConfigError(f"vocab_size is {vocab_size}; at most {MAX_VOCAB_SIZE} ids make a model")
    backend = tokenizers.Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizer("smollm")
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_TOKEN_BYTES,
        show_progress=progress,
    )
    backend.train_from_iterator(iter(texts), trainer)
    tokenizer = Tokenizer(backend, bos_token_id=0, eos_token_ids=(0,), pad_token_id=0)
    if tokenizer.vocab_size < vocab_size:
        log.warning("the texts yield %d entries of the %d asked for: give more text", tokenizer.vocab_size, vocab_size)
    return tokenizer


def read_texts(paths: Sequence[Path]) -> Iterator[str]:
    """Texts of UTF-8 files, in pieces of whole lines; of a .jsonl file, the `text` of each line.

    Raises:
        ConfigError: a file is absent, not UTF-8, or a line of a .jsonl file has no text.
    """
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; give text files or .jsonl files")
        pieces = _jsonl_texts(path) if path.suffix == ".jsonl" else _line_blocks(path)
        try:
            yield from pieces
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 ({error.reason}); convert the file first") from error


def _line_blocks(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="") as file:
        while block := file.read(READ_CHARACTERS):
            yield block + file.readline()


def _jsonl_texts(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _text_field(line, f"{path}, line {number}")


def _text_field(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not valid JSON ({error.msg}); correct or remove the line") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise ConfigError(f"{where}: no text; every line must be an object with a text field")
    return text
