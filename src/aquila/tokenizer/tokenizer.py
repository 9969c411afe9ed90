"""Text to token ids and back: byte-pair encoding over bytes, with control tokens kept out of reach of user
text.

Two backends share one vocabulary. The plain one reads every special token's text as ordinary text and is what
user text and code go through; the other recognises special tokens and serves our own templates. Neither is
changed after construction, so one tokenizer may serve many threads.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers.models import BPE

from aquila.errors import ConfigError, TokenizerError
from aquila.files import atomic_write
from aquila.tokenizer.specials import (
    ALL_FIM_TEXTS,
    END_TEXTS,
    FIM_NAMES,
    FimTokens,
    find_fim,
    is_control_text,
)

SPACE_PIECE = "▁"  # how SentencePiece vocabularies write a space
BYTE_PIECE = re.compile("<0x[0-9A-Fa-f]{2}>")  # ... and a byte that no other entry covers
LONG_TEXT = 1 << 14  # characters from which other threads get to run while a text is encoded


class Tokenizer:
    """A byte-pair tokenizer with the special tokens of its model.

    Args:
        backend: the vocabulary with its pre-tokenizer and added tokens; owned by this object from here on.
        bos_token_id: token that begins a document, if the model knows one.
        eos_token_ids: tokens that end generation, the one to write first. Tokens whose text says so
            (`END_TEXTS`) are added to them.
        pad_token_id: token for unused places of a batch.
        add_bos_token: whether prompts begin with `bos_token_id`, as the model's training documents did.
            `encode` never adds it; whoever builds a prompt does.
        chat_template: the checkpoint's own jinja chat template.
        fim: fill-in-the-middle ids of a vocabulary that has none by text.
        unused_ids: places in the vocabulary without meaning; they decode to nothing.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_token_id: int | None = None,
        eos_token_ids: Sequence[int] = (),
        pad_token_id: int | None = None,
        add_bos_token: bool = False,
        chat_template: str | None = None,
        fim: FimTokens | None = None,
        unused_ids: Iterable[int] = (),
    ) -> None:
        backend.no_truncation()  # files may carry a training-time limit, which would cut prompts silently
        backend.no_padding()
        self.backend = backend
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.bos_token_id = bos_token_id
        self.pad_token_id = pad_token_id
        self.add_bos_token = add_bos_token
        self.chat_template = chat_template
        self.unused_ids = frozenset(unused_ids)

        self._added = backend.get_added_tokens_decoder()
        self._plain = _plain_twin(backend, self._added)
        self.fim = fim or find_fim(backend.token_to_id)
        self._aliases = self._fim_aliases()
        self.eos_token_ids: tuple[int, ...] = self._with_end_texts(eos_token_ids)
        self.special_ids: frozenset[int] = self.unused_ids | {
            token_id for token_id, token in self._added.items() if token.special or token.content in ALL_FIM_TEXTS
        }
        self.is_sentencepiece: bool = _model(backend).byte_fallback
        self.adds_space: bool = self.is_sentencepiece and self._begins_with_space()
        self._bytes: dict[int, bytes] = {}  # filled as tokens are met: a full table would slow every start
        self._check_ids()

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of a text; nothing is added to it.

        Args:
            text: any text.
            allow_special: read the texts of special tokens as those tokens. Leave it off for text that users
                or files bring, so that none can forge a turn or an end.
        """
        backend, text = (self.backend, self._spell_out(text)) if allow_special else (self._plain, text)
        _check_encodable(text)
        if len(text) > LONG_TEXT:
            return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str], *, allow_special: bool = False) -> list[list[int]]:
        """`encode` for many texts, on all cores."""
        backend = self.backend if allow_special else self._plain
        spelled = [self._spell_out(text) for text in texts] if allow_special else list(texts)
        for text in spelled:
            _check_encodable(text)
        return [encoding.ids for encoding in backend.encode_batch_fast(spelled, add_special_tokens=False)]

    def decode(self, token_ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD.

        SentencePiece vocabularies put a space before every text, which is taken off again here (a
        `StreamDecoder` continues a text and leaves it).
        """
        joined = b"".join(self.token_bytes(token_id, with_special=not skip_special) for token_id in token_ids)
        if self.adds_space:
            joined = joined.removeprefix(b" ")
        return joined.decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int, *, with_special: bool = False) -> bytes:
        """The bytes a token stands for, perhaps only a part of a character.

        Special tokens are `b""` unless `with_special`. So are ids beyond the vocabulary: an embedding often
        has more rows than its tokenizer has tokens, and such a row can be sampled.
        """
        if not with_special and token_id in self.special_ids:
            return b""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._compute_bytes(token_id)
        return known

    def token_id(self, text: str) -> int | None:
        """Id of a vocabulary entry, as the vocabulary writes it (`Ġthe`, `[CLS]`) or by its alias; None if
        unknown."""
        alias = self._aliases.get(text)
        return self.backend.token_to_id(text if alias is None else alias)

    def token_text(self, token_id: int) -> str:
        """A vocabulary entry as the vocabulary writes it.

        Raises:
            TokenizerError: there is no such id.
        """
        text = self.backend.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        if text is None:
            raise TokenizerError(
                f"token id {token_id} is not in the vocabulary; its ids are 0 to {self.vocab_size - 1}"
            )
        return text

    def is_added(self, token_id: int) -> bool:
        """Whether a token is matched whole in the text instead of being built from merges."""
        return token_id in self._added

    def save(self, directory: Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json, as transformers reads
        them."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        named = {
            "bos_token": self.bos_token_id,
            "eos_token": self.eos_token_ids[0] if self.eos_token_ids else None,
            "pad_token": self.pad_token_id,
        }
        texts = {name: self.token_text(token_id) for name, token_id in named.items() if token_id is not None}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": self.add_bos_token,
            "clean_up_tokenization_spaces": False,
            **texts,
        }
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        if self._aliases and self.fim:
            config["fim"] = self.fim.ids()
        # An object a token, not plain text: FlagAI's own reader fails on the short form.
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        special = {name: {"content": text, **flags} for name, text in texts.items()}
        _write(directory / "tokenizer.json", self.backend.to_str(pretty=False))
        _write(directory / "tokenizer_config.json", json.dumps(config, ensure_ascii=False, indent=2) + "\n")
        _write(directory / "special_tokens_map.json", json.dumps(special, ensure_ascii=False, indent=2) + "\n")

    def save_vocabulary(self, directory: Path) -> None:
        """Writes vocab.json and merges.txt, the pair FlagAI reads, beside what `save` writes."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        _model(self.backend).save(str(directory))

    def _compute_bytes(self, token_id: int) -> bytes:
        if token_id < 0:
            raise TokenizerError(f"token id {token_id} is negative; ids are 0 to {self.vocab_size - 1}")
        text = self.backend.id_to_token(token_id)
        if text is None:
            return b""
        if token_id in self._added or token_id in self.unused_ids:
            return text.encode()
        return _piece_bytes(text) if self.is_sentencepiece else _byte_level_bytes(text)

    def _fim_aliases(self) -> dict[str, str]:
        """Standard fill-in-the-middle names this vocabulary lacks -> the text it has at their place."""
        ids = self.fim.ids() if self.fim else {}
        wanted = {FIM_NAMES[role]: token_id for role, token_id in ids.items()}
        return {
            name: self.token_text(token_id)
            for name, token_id in wanted.items()
            if self.backend.token_to_id(name) is None
        }

    def _spell_out(self, text: str) -> str:
        for alias, own_text in self._aliases.items():
            text = text.replace(alias, own_text)
        return text

    def _with_end_texts(self, eos_token_ids: Sequence[int]) -> tuple[int, ...]:
        by_text = (self.backend.token_to_id(text) for text in END_TEXTS)
        return tuple(
            dict.fromkeys([*eos_token_ids, *(found for found in by_text if found is not None and found in self._added)])
        )

    def _begins_with_space(self) -> bool:
        tokens = self._plain.encode("a", add_special_tokens=False).tokens
        return bool(tokens) and tokens[0].startswith(SPACE_PIECE)

    def _check_ids(self) -> None:
        named = {"bos_token_id": self.bos_token_id, "pad_token_id": self.pad_token_id}
        named |= {f"eos_token_ids[{index}]": token_id for index, token_id in enumerate(self.eos_token_ids)}
        for name, token_id in named.items():
            if token_id is not None and not 0 <= token_id < self.vocab_size:
                raise TokenizerError(
                    f"{name} is {token_id}, but the vocabulary has ids 0 to {self.vocab_size - 1}; "
                    "correct the tokenizer's configuration"
                )


def _plain_twin(backend: tokenizers.Tokenizer, added: dict[int, tokenizers.AddedToken]) -> tokenizers.Tokenizer:
    """The same vocabulary, reading control tokens as text. The model itself is shared, not copied."""
    twin = tokenizers.Tokenizer(backend.model)
    if backend.normalizer is not None:
        twin.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        twin.pre_tokenizer = backend.pre_tokenizer
    twin.add_tokens([_control_marked(added[token_id]) for token_id in sorted(added)])
    twin.encode_special_tokens = True
    return twin


def _control_marked(token: tokenizers.AddedToken) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.special or is_control_text(token.content),
    )


def _model(backend: tokenizers.Tokenizer) -> BPE:
    model = backend.model
    if not isinstance(model, BPE):
        raise TokenizerError(
            f"a {type(model).__name__} vocabulary cannot be used; only byte-pair encoding (BPE) is supported"
        )
    if model.end_of_word_suffix or model.continuing_subword_prefix:
        raise TokenizerError(
            "the vocabulary marks word parts "
            f"({model.end_of_word_suffix or model.continuing_subword_prefix!r}); "
            "only byte-level and SentencePiece vocabularies are supported"
        )
    return model


def _check_encodable(text: str) -> None:
    """Half a surrogate pair cannot be written in UTF-8; JSON bodies may hold one."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"the text has half a surrogate pair (U+{ord(text[error.start]):04X}) at character "
            f"{error.start}; send valid Unicode"
        ) from error


def _byte_level_alphabet() -> dict[int, int]:
    """GPT-2's table, turned round: code point of the printable stand-in -> byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {0x100 + place: byte for place, byte in enumerate(others)}


_BYTE_OF_CODE_POINT = _byte_level_alphabet()


def _byte_level_bytes(text: str) -> bytes:
    if all(ord(character) in _BYTE_OF_CODE_POINT for character in text):
        return bytes(_BYTE_OF_CODE_POINT[ord(character)] for character in text)
    return text.encode()  # an entry outside the alphabet is its own text


def _piece_bytes(text: str) -> bytes:
    if BYTE_PIECE.fullmatch(text):
        return bytes.fromhex(text[3:5])
    return text.replace(SPACE_PIECE, " ").encode()


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
