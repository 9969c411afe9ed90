"""Conversations as token ids, each knowing whether it is learned: what the assistant says and what ends its turn.

A conversation too long for a sequence loses its last rounds, whole ones, and is left out where not even the first fits.
Nothing else is cut, and all that is left out is counted.
"""

import hashlib
import json
import logging
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from aquila.data.conversations import Conversation, Problem, conversation_files, read_conversations
from aquila.data.sequences import Piece
from aquila.data.sidecar import tokenizer_digest
from aquila.errors import ConfigError, DataError
from aquila.files import atomic_write, cache_dir, sha256_file
from aquila.tokenizer.messages import Message, control_token_id
from aquila.tokenizer.templates import TEMPLATES, ChatTemplate, Template, stop_token_ids, template_for
from aquila.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)

KEPT_FROM_BYTES = 8 << 20  # encoded conversations of so many bytes are kept in the cache folder
_VERSION = 1  # of the encoding: another number makes everyone encode anew
_SHOWN_PROBLEMS = 5


@dataclass
class ConversationCounts:
    """What became of the records of the files."""

    conversations: int = 0  # used
    tokens: int = 0
    targets: int = 0  # tokens that are learned
    invalid: int = 0
    too_long: int = 0  # left out: the first round does not fit into a sequence
    shortened: int = 0  # lost their last rounds
    rounds_lost: int = 0  # by those
    open_questions: int = 0  # last messages without an answer, left out
    problems: list[str] = field(default_factory=list)  # the first of the invalid

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class ConversationSet:
    """Encoded conversations.

    Attributes:
        tokens: of all of them, one after another, int32 `[tokens]`.
        learned: which of those are targets, bool `[tokens]`.
        lengths: tokens of each, `[conversations]`.
        counts: what was read and what was left out.
        digest: of the files, in order.
    """

    def __init__(
        self, tokens: np.ndarray, learned: np.ndarray, lengths: np.ndarray, counts: ConversationCounts, digest: str
    ) -> None:
        self.tokens, self.learned = tokens, learned
        self._bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.lengths, self.counts, self.digest = lengths, counts, digest

    def __len__(self) -> int:
        return len(self.lengths)

    def piece(self, index: int) -> Piece:
        place = slice(self._bounds[index], self._bounds[index + 1])
        return Piece(self.tokens[place], self.learned[place])


def choose_template(name: str | None, tokenizer: Tokenizer) -> ChatTemplate:
    """The template called `name`, or the tokenizer's own.

    Raises:
        ConfigError: there is neither.
    """
    template = template_for(name, tokenizer)
    if template is None:
        raise ConfigError(
            "data.template (--template): this tokenizer has no chat template of its own; choose one of "
            f"{', '.join(TEMPLATES)}"
        )
    return template


def render(template: ChatTemplate, tokenizer: Tokenizer, messages: Sequence[Message]) -> Piece:
    """A finished conversation as the model reads it, with what the assistant writes marked as learned.

    An answer is encoded apart from what is before it, as it is when it is generated.

    Raises:
        ConfigError: the messages do not take turns.
        DataError: the template writes a round in another way once more rounds follow.
    """
    if isinstance(template, Template):
        return _render_pieces(template, tokenizer, messages)
    return _render_rounds(template, tokenizer, messages)


def load_conversations(
    paths: Sequence[Path], template: ChatTemplate, tokenizer: Tokenizer, *, length: int
) -> ConversationSet:
    """Reads and encodes all conversations of files and folders.

    Args:
        paths: as `conversation_files` takes them.
        template: how they are written out.
        tokenizer: of the model.
        length: of a sequence; a conversation may have one token more.

    Raises:
        DataError: not one conversation is usable.
    """
    files = conversation_files(paths)
    digest = hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()
    kept = None
    if sum(path.stat().st_size for path in files) >= KEPT_FROM_BYTES:
        parts = [
            str(_VERSION),
            digest,
            *map(str, files),
            tokenizer_digest(tokenizer),
            template_digest(template, tokenizer),
            str(length),
        ]
        kept = cache_dir() / "conversations" / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.npz"
    found = _read_kept(kept, digest) if kept else None
    if found is None:
        found = _encode(files, digest, template, tokenizer, length)
        if kept:
            _keep(found, kept)
    names, counts = ", ".join(map(str, paths)), found.counts
    if not len(found):
        raise DataError(
            f"{names}: no usable conversation ({counts.invalid} invalid, {counts.too_long} longer than {length} tokens)"
            f"{'; ' + counts.problems[0] if counts.problems else ''}; `aquila data validate` names every line"
        )
    _tell(names, counts, length)
    return found


def _encode(
    files: Sequence[Path], digest: str, template: ChatTemplate, tokenizer: Tokenizer, length: int
) -> ConversationSet:
    counts = ConversationCounts()
    tokens, learned, lengths = array("i"), bytearray(), array("q")
    for piece in _pieces(files, template, tokenizer, length, counts):
        tokens.extend(piece.token_ids.tolist())
        assert piece.learned is not None
        learned += piece.learned.tobytes()
        lengths.append(len(piece.token_ids))
        counts.conversations += 1
        counts.tokens += len(piece.token_ids)
        counts.targets += int(piece.learned[1:].sum())
    marks = np.array(learned, dtype=np.uint8).astype(bool)
    return ConversationSet(np.array(tokens, np.int32), marks, np.array(lengths, np.int64), counts, digest)


def _keep(found: ConversationSet, path: Path) -> None:
    """So that neither a restart nor the other processes of a run encode a large file again."""
    counts = np.frombuffer(json.dumps(found.counts.as_dict()).encode(), dtype=np.uint8)
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, tokens=found.tokens, learned=found.learned, lengths=found.lengths, counts=counts)
    except OSError as error:
        log.warning(
            "%s: cannot be written (%s); going on without, so the next start encodes the conversations again",
            path,
            error.strerror or error,
        )


def _read_kept(path: Path, digest: str) -> ConversationSet | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            counts = ConversationCounts(**json.loads(kept["counts"].tobytes()))
            return ConversationSet(kept["tokens"], kept["learned"], kept["lengths"], counts, digest)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # the last is told when it is written
        return None
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile, EOFError, zlib.error):
        log.warning("%s: damaged; encoding the conversations again", path)
        return None


def _pieces(
    files: Iterable[Path], template: ChatTemplate, tokenizer: Tokenizer, length: int, counts: ConversationCounts
) -> Iterable[Piece]:
    for path in files:
        for record in read_conversations(path):
            fitted = _fit(record, template, tokenizer, length, counts) if isinstance(record, Conversation) else record
            if isinstance(fitted, Problem):
                counts.invalid += 1
                if len(counts.problems) < _SHOWN_PROBLEMS:
                    counts.problems.append(str(fitted))
            elif fitted is not None:
                yield fitted


def _fit(
    conversation: Conversation, template: ChatTemplate, tokenizer: Tokenizer, length: int, counts: ConversationCounts
) -> Piece | Problem | None:
    """The conversation with as many rounds as fit; None if there is not room for one."""
    messages = conversation.messages
    if messages[-1].role == "user":
        messages = messages[:-1]
        counts.open_questions += 1
    first = 3 if messages[0].role == "system" else 2
    lost = 0
    while True:
        try:
            piece = render(template, tokenizer, messages)
        except (DataError, ConfigError) as error:  # a template of others may refuse what ours take
            return Problem(conversation.where, "", str(error))
        if len(piece.token_ids) <= length + 1:
            break
        if len(messages) <= first:
            counts.too_long += 1
            return None
        messages, lost = messages[:-2], lost + 1
    counts.shortened += lost > 0
    counts.rounds_lost += lost
    return piece


def _tell(names: str, counts: ConversationCounts, length: int) -> None:
    if counts.invalid:
        log.warning(
            "%s: %d invalid records are left out, such as %s; `aquila data validate` names all",
            names,
            counts.invalid,
            "; ".join(counts.problems),
        )
    if counts.shortened or counts.too_long:
        log.warning(
            "%s: sequence_length %d is too short for %d conversations: %d are left out, %d lost their last rounds (%d)",
            names,
            length,
            counts.shortened + counts.too_long,
            counts.too_long,
            counts.shortened,
            counts.rounds_lost,
        )


def _render_pieces(template: Template, tokenizer: Tokenizer, messages: Sequence[Message]) -> Piece:
    token_ids: list[int] = []
    learned: list[bool] = []
    pieces = template.pieces(messages, add_generation_prompt=False)
    for (special, train), group in groupby(pieces, key=lambda piece: (piece.special, piece.train)):
        texts = [piece.text for piece in group]
        ids = [control_token_id(tokenizer, t) for t in texts] if special else tokenizer.encode("".join(texts))
        token_ids += ids
        learned += [train] * len(ids)
    return Piece(np.array(token_ids, dtype=np.int64), np.array(learned, dtype=bool))


def _render_rounds(template: ChatTemplate, tokenizer: Tokenizer, messages: Sequence[Message]) -> Piece:
    """For a template that is a program: an answer is what comes after the prompt for it, up to its end token."""
    token_ids = template.encode(tokenizer, messages, add_generation_prompt=False)
    learned = np.zeros(len(token_ids), dtype=bool)
    ends = {*tokenizer.eos_token_ids, *stop_token_ids(template, tokenizer)}
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        prompt = template.encode(tokenizer, messages[:index], add_generation_prompt=True)
        answered = template.encode(tokenizer, messages[: index + 1], add_generation_prompt=False)
        if token_ids[: len(prompt)] != prompt or token_ids[: len(answered)] != answered:
            raise DataError(
                f"the chat template {template.name!r} writes messages[{index}] in another way when it is read back, so "
                "what the assistant wrote cannot be told; set data.template to a named one"
            )
        stop = next((p + 1 for p in range(len(prompt), len(answered)) if token_ids[p] in ends), len(answered))
        learned[len(prompt) : stop] = True
    return Piece(np.array(token_ids, dtype=np.int64), learned)


def template_digest(template: ChatTemplate, tokenizer: Tokenizer) -> str:
    """SHA-256 of how a template writes."""
    source = template.jinja() if isinstance(template, Template) else str(tokenizer.chat_template)
    return hashlib.sha256(f"{template.name}\n{source}".encode()).hexdigest()
