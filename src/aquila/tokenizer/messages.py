"""What a conversation is made of: messages from a user's side, pieces on the model's side.

A `Message` is what people and programs exchange. A template turns messages into `Piece`s, the text that the
model reads, each piece knowing whether it is a control token and whether training learns from it. Contents of
messages are always plain text: `</s>` typed by a user is four characters, never the control token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from aquila.errors import ConfigError, TokenizerError
from aquila.tokenizer.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Piece:
    """A stretch of rendered conversation.

    Attributes:
        text: as the model sees it.
        special: a control token; everything else is encoded as plain text, whatever it spells.
        train: part of what the assistant writes, so supervised fine-tuning learns it.
    """

    text: str
    special: bool = False
    train: bool = False


def check_conversation(messages: Sequence[Message], *, add_generation_prompt: bool) -> None:
    """`ConfigError` unless messages are: system (optional), then user and assistant in turn.

    With `add_generation_prompt` the assistant speaks next, so the last message is the user's.
    """
    turns = [message.role for message in messages]
    offset = 1 if turns[:1] == ["system"] else 0
    if len(turns) == offset:
        raise ConfigError("the conversation has no user message; add one")
    for index, role in enumerate(turns[offset:]):
        expected = "assistant" if index % 2 else "user"
        if role != expected:
            raise ConfigError(
                f"messages[{index + offset}]: role is {role!r}, expected {expected!r}; after an optional "
                "system message, user and assistant take turns, the user first"
            )
    if add_generation_prompt and turns[-1] == "assistant":
        raise ConfigError(f"messages[{len(turns) - 1}]: the assistant spoke last; add a user message to answer")


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> list[int]:
    """Token ids of rendered pieces, the same as those of the whole text with its control tokens.

    Neighbouring plain pieces are joined first: byte-pair merges cross the border between a role and its text.

    Raises:
        TokenizerError: a control token is not in the vocabulary.
    """
    token_ids: list[int] = []
    for special, group in groupby(pieces, key=lambda piece: piece.special):
        if special:
            token_ids += [control_token_id(tokenizer, piece.text) for piece in group]
        else:
            token_ids += tokenizer.encode("".join(piece.text for piece in group))
    return token_ids


def control_token_id(tokenizer: Tokenizer, text: str) -> int:
    token_id = tokenizer.token_id(text)
    if token_id is None:
        raise TokenizerError(
            f"the chat template needs the control token {text!r}, which this tokenizer does not have; "
            "choose the template that the model was trained with"
        )
    return token_id
