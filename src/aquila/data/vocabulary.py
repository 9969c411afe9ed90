"""Whether the ids of a shard are those of the model's vocabulary, and what a shard's bytes are known by."""

import hashlib
import logging

import numpy as np

from aquila.data.shards import Shard, bin_path, idx_path, token_dtype
from aquila.data.sidecar import sidecar_path, tokenizer_digest
from aquila.errors import DataError
from aquila.files import Hashes, feed_file
from aquila.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_SAMPLED_BLOCKS = 1024
_BLOCK_BYTES = 4096
_SCANNED_TOKENS = 1 << 28  # about a second; a larger shard is scanned in part, and each batch is checked anyway
_SCAN_TOKENS = 1 << 20


def check_vocabulary(shard: Shard, tokenizer: Tokenizer | None, vocab_size: int, *, trust: bool = False) -> None:
    """Refuses a shard whose ids mean something else to the model.

    Args:
        shard: with the note of `aquila data pack` beside it, or of another program.
        tokenizer: of the model; None where it has none, and only ranges can be compared.
        vocab_size: rows of the model's embedding.
        trust: take the ids as they are, if they are in range.

    Raises:
        DataError: made by another tokenizer, for a smaller vocabulary, or with ids out of range.
    """
    note = shard.sidecar
    wanted = tokenizer_digest(tokenizer) if tokenizer is not None else None
    if note is not None and note.tokenizer == wanted:
        return
    if note is not None and wanted is not None and tokenizer is not None and not trust:
        raise DataError(
            f"{shard.prefix}: its ids were made by tokenizer {note.tokenizer[:12]} ({note.vocab_size} ids), the "
            f"model's is {wanted[:12]} ({tokenizer.vocab_size} ids); pack the text again with the model's tokenizer"
        )
    if note is None and not trust:
        _check_type(shard, tokenizer, vocab_size)
    highest = _check_range(shard, vocab_size)
    if note is None:
        log.warning(
            "%s: no %s says which tokenizer made it; its ids go up to %d, the model has %d",
            shard.prefix,
            sidecar_path(shard.prefix).name,
            highest,
            vocab_size,
        )
    elif wanted is not None:
        log.warning("%s: made by tokenizer %s, not the model's %s", shard.prefix, note.tokenizer[:12], wanted[:12])


def shard_fingerprint(shard: Shard) -> str:
    """SHA-256 over the index, the size and 1,024 evenly spaced blocks of the ids.

    Packing other text, or with another tokenizer, moves every id behind the first difference; so this is found without
    reading a terabyte at every start. `aquila data validate` compares the digest of the whole file.
    """
    hashes = Hashes(["sha256"])
    feed_file(idx_path(shard.prefix), hashes)
    file_size = bin_path(shard.prefix).stat().st_size
    sampled = hashlib.sha256(f"{hashes.hexdigests()['sha256']} {file_size}".encode())
    with bin_path(shard.prefix).open("rb") as file:
        for block in range(_SAMPLED_BLOCKS):
            file.seek(block * file_size // _SAMPLED_BLOCKS)
            sampled.update(file.read(_BLOCK_BYTES))
    return sampled.hexdigest()


def _check_type(shard: Shard, tokenizer: Tokenizer | None, vocab_size: int) -> None:
    """Megatron and we store ids of 2 bytes where the vocabulary is small, and only there."""
    wanted = tokenizer.vocab_size if tokenizer is not None else vocab_size
    if shard.dtype.itemsize < token_dtype(wanted).itemsize:
        raise DataError(
            f"{shard.prefix}: ids of {shard.dtype.itemsize} bytes, so it was made for a vocabulary below 65,500; the "
            f"model's has {wanted}. Pack the text with the model's tokenizer, or set data.check_vocabulary=false"
        )


def _check_range(shard: Shard, vocab_size: int) -> int:
    """The highest id. Looks at all tokens, of a very large shard at evenly spaced stretches."""
    stretches = -(-shard.num_tokens // _SCAN_TOKENS)
    looked_at = max(1, _SCANNED_TOKENS // _SCAN_TOKENS)
    highest = 0
    for stretch in np.unique(np.linspace(0, stretches - 1, min(stretches, looked_at)).astype(np.int64)):
        tokens = shard.tokens[stretch * _SCAN_TOKENS : (stretch + 1) * _SCAN_TOKENS]
        wrong = np.flatnonzero((tokens < 0) | (tokens >= vocab_size))
        if len(wrong):
            place = int(stretch) * _SCAN_TOKENS + int(wrong[0])
            raise DataError(
                f"{bin_path(shard.prefix)}: token {place} is {int(tokens[wrong[0]])}, but the model's ids are 0 to "
                f"{vocab_size - 1}; pack the text with the model's tokenizer"
            )
        highest = max(highest, int(tokens.max()))
    return highest
