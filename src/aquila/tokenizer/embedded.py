"""A tokenizer inside another file: the content of its tokenizer.json, and what it knows beyond that as plain values."""

from typing import Annotated, Any

import tokenizers
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aquila.errors import TokenizerError
from aquila.tokenizer.byte_level import check_ids
from aquila.tokenizer.specials import FimTokens
from aquila.tokenizer.tokenizer import Tokenizer

_Id = Annotated[int, Field(strict=True, ge=0)]


class TokenizerSettings(BaseModel):
    """The arguments of `Tokenizer` beside its backend."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bos_token_id: _Id | None = None
    eos_token_ids: tuple[_Id, ...] = ()
    pad_token_id: _Id | None = None
    add_bos_token: bool = False
    chat_template: str | None = None
    fim: dict[str, _Id] | None = None
    unused_ids: tuple[_Id, ...] = ()


def dump_tokenizer(tokenizer: Tokenizer) -> tuple[bytes, dict[str, Any]]:
    """The bytes of tokenizer.json, and the settings as JSON values."""
    settings = TokenizerSettings(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_ids=tokenizer.eos_token_ids,
        pad_token_id=tokenizer.pad_token_id,
        add_bos_token=tokenizer.add_bos_token,
        chat_template=tokenizer.chat_template,
        fim=tokenizer.fim.ids() if tokenizer.fim else None,
        unused_ids=tuple(sorted(tokenizer.unused_ids)),
    )
    return tokenizer.backend.to_str(pretty=False).encode(), settings.model_dump(mode="json")


def parse_settings(settings: Any, where: str) -> TokenizerSettings:
    """Checks settings that `dump_tokenizer` gave; `where` leads the message of the `TokenizerError`."""
    try:
        parsed = TokenizerSettings.model_validate(settings)
        if parsed.fim is not None:
            FimTokens(**parsed.fim)
    except (ValidationError, TypeError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise TokenizerError(f"{where}: the tokenizer's settings are damaged: {problem}; make the file again") from None
    return parsed


def restore_tokenizer(content: bytes, settings: TokenizerSettings, where: str) -> Tokenizer:
    """The inverse of `dump_tokenizer`.

    Raises:
        TokenizerError: the content is no tokenizer, or the settings name ids that it lacks.
    """
    try:
        backend = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"{where}: the tokenizer is damaged: {error}; make the file again") from error
    check_ids(backend.get_vocab(with_added_tokens=True), where)
    return Tokenizer(
        backend,
        bos_token_id=settings.bos_token_id,
        eos_token_ids=settings.eos_token_ids,
        pad_token_id=settings.pad_token_id,
        add_bos_token=settings.add_bos_token,
        chat_template=settings.chat_template,
        fim=FimTokens(**settings.fim) if settings.fim else None,
        unused_ids=settings.unused_ids,
    )
