"""Reads a tokenizer from the files that come with a model.

Understood: a tokenizer.json with its companions (tokenizer_config.json, special_tokens_map.json,
generation_config.json, chat_template.jinja), and a GPT-2 pair vocab.json + merges.txt. The published Aquila
pair is recognised by its content and gets its eight special tokens whatever lies beside it: some releases
have no special_tokens_map.json, others one in another form, and FlagAI falls back to wrong ids without a word
in the first case.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken
from tokenizers.models import BPE

from aquila.errors import TokenizerError
from aquila.tokenizer.byte_level import build_backend, check_ids
from aquila.tokenizer.specials import (
    AQUILA_BASE_VOCAB_SIZE,
    AQUILA_FIM,
    AQUILA_SPECIALS,
    END_OF_TEXT,
    FimTokens,
)
from aquila.tokenizer.tokenizer import Tokenizer

_AQUILA_MERGES = AQUILA_BASE_VOCAB_SIZE - 1 - 256  # every entry but <|endoftext|> and the bytes is a product
_AQUILA_BOS, _AQUILA_EOS = AQUILA_BASE_VOCAB_SIZE + 6, AQUILA_BASE_VOCAB_SIZE + 7  # [CLS] and </s>
_AQUILA_LANDMARKS = {END_OF_TEXT: 0, "!": 1, "ĠĠ": 257, "ä¸": 258}
_NEEDED = "tokenizer.json, or vocab.json and merges.txt"


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model folder, or of one tokenizer.json.

    Raises:
        TokenizerError: there is none, or its files are damaged or contradict each other.
    """
    path = Path(path)
    if not path.exists():
        raise TokenizerError(f"{path}: no such file or folder; give a folder that holds {_NEEDED}")
    if path.suffix == ".gguf":
        raise TokenizerError(f"{path}: this vocabulary is inside a GGUF checkpoint; open it as a checkpoint")
    if path.is_file():
        if path.name in ("vocab.json", "merges.txt"):
            return load_tokenizer(path.parent)
        if path.suffix != ".json":
            raise TokenizerError(f"{path}: not a tokenizer file; give {_NEEDED}, or their folder")
        return _load_tokenizer_json(path)
    if (path / "tokenizer.json").is_file():
        return _load_tokenizer_json(path / "tokenizer.json")
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return _load_vocabulary_pair(path)
    raise TokenizerError(f"{path}: no tokenizer here; the folder must hold {_NEEDED}")


def has_tokenizer_files(path: Path) -> bool:
    """Whether `load_tokenizer` would find something to read in this folder."""
    return (path / "tokenizer.json").is_file() or all((path / name).is_file() for name in ("vocab.json", "merges.txt"))


def _load_tokenizer_json(path: Path) -> Tokenizer:
    text = _read_text(path)
    companions = _read_companions(path.parent)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"{path}: {error}; the file is damaged or no tokenizer.json, fetch it again") from error
    if not isinstance(backend.model, BPE):
        raise TokenizerError(
            f"{path}: its model is {type(backend.model).__name__}; only byte-pair encoding (BPE) is supported"
        )
    _add_missing(backend, companions.added, companions.config_path)
    check_ids(backend.get_vocab(with_added_tokens=True), str(path))
    return _assemble(backend, companions)


def _load_vocabulary_pair(directory: Path) -> Tokenizer:
    vocab = _read_vocab(directory / "vocab.json")
    merges = _read_merges(directory / "merges.txt")
    companions = _read_companions(directory)
    if _is_aquila(vocab, len(merges)):
        return _aquila(vocab, merges, chat_template=companions.chat_template, where=str(directory))
    names = [END_OF_TEXT, *companions.special_texts()]
    inside = [text for text in dict.fromkeys(names) if text in vocab]
    added = [AddedToken(text, special=True, normalized=False) for text in sorted(inside, key=vocab.__getitem__)]
    backend = build_backend(vocab, merges, pre="gpt-2", added=added, where=str(directory / "vocab.json"))
    _add_missing(backend, companions.added, companions.config_path)
    return _assemble(backend, companions)


def _is_aquila(vocab: Mapping[str, int], num_merges: int) -> bool:
    return (
        len(vocab) in (AQUILA_BASE_VOCAB_SIZE, AQUILA_BASE_VOCAB_SIZE + len(AQUILA_SPECIALS))
        and num_merges == _AQUILA_MERGES
        and all(vocab.get(text) == token_id for text, token_id in _AQUILA_LANDMARKS.items())
    )


def _aquila(
    vocab: dict[str, int], merges: list[tuple[str, str]], *, chat_template: str | None, where: str
) -> Tokenizer:
    base = {text: token_id for text, token_id in vocab.items() if token_id < AQUILA_BASE_VOCAB_SIZE}
    specials = [AddedToken(text, special=True, normalized=False) for text in (END_OF_TEXT, *AQUILA_SPECIALS)]
    backend = build_backend(base, merges, pre="gpt-2", added=specials, where=where)
    return Tokenizer(
        backend,
        bos_token_id=_AQUILA_BOS,
        eos_token_ids=(_AQUILA_EOS, 0),
        pad_token_id=0,
        add_bos_token=True,  # every training document began with it
        chat_template=chat_template,
        fim=AQUILA_FIM,
    )


@dataclass(frozen=True)
class _Companions:
    """What the files beside a vocabulary say about it."""

    config_path: Path
    config: Mapping[str, Any]
    special_map: Mapping[str, Any]
    generation_eos: tuple[int, ...]
    added: Mapping[int, AddedToken]
    chat_template: str | None

    def named(self, name: str) -> str | None:
        """Text of the token with a role (`bos_token`), given plainly or as an object with its `content`."""
        value = self.config.get(name) or self.special_map.get(name)
        return _content(value, f"{self.config_path}: {name}") if value is not None else None

    def special_texts(self) -> list[str]:
        roles = ("bos_token", "eos_token", "pad_token", "unk_token")
        extra = self.config.get("additional_special_tokens") or self.special_map.get("additional_special_tokens") or []
        texts = [self.named(role) for role in roles]
        texts += [_content(value, f"{self.config_path}: additional_special_tokens") for value in extra]
        texts += [token.content for token in self.added.values() if token.special]
        return [text for text in texts if text is not None]


def _read_companions(directory: Path) -> _Companions:
    config_path = directory / "tokenizer_config.json"
    config = _read_object(config_path)
    special_map = _read_object(directory / "special_tokens_map.json")
    generation = _read_object(directory / "generation_config.json")
    added = {
        _id(token_id, f"{config_path}: added_tokens_decoder"): _added_token(
            value, f"{config_path}: added_tokens_decoder[{token_id!r}]"
        )
        for token_id, value in config.get("added_tokens_decoder", {}).items()
    }
    added |= {
        _id(token_id, f"{directory}: added_tokens.json"): AddedToken(text, special=True, normalized=False)
        for text, token_id in _read_object(directory / "added_tokens.json").items()
        if token_id not in added
    }
    declares_eos = config.get("eos_token") or special_map.get("eos_token")
    eos = generation.get("eos_token_id")
    if eos is None and not declares_eos:  # a last resort: some config.json carry a class default here
        eos = _read_object(directory / "config.json").get("eos_token_id")
    return _Companions(
        config_path=config_path,
        config=config,
        special_map=special_map,
        generation_eos=_ids(eos, f"{directory}: eos_token_id of generation_config.json or config.json"),
        added=added,
        chat_template=_read_chat_template(directory, config),
    )


def _assemble(backend: tokenizers.Tokenizer, companions: _Companions) -> Tokenizer:
    ids: dict[str, int | None] = {}
    for role in ("bos_token", "eos_token", "pad_token"):
        text = companions.named(role)
        ids[role] = None if text is None else backend.token_to_id(text)
        if text is not None and ids[role] is None:
            raise TokenizerError(
                f"{companions.config_path}: {role} {text!r} is not in the vocabulary; "
                "name a token that is, or list it with its id under added_tokens_decoder"
            )
    bos, eos = ids["bos_token"], ids["eos_token"]
    is_aquila = bos == _AQUILA_BOS and backend.token_to_id(AQUILA_SPECIALS[-1]) == _AQUILA_EOS
    add_bos = companions.config.get("add_bos_token")
    return Tokenizer(
        backend,
        bos_token_id=bos,
        eos_token_ids=tuple(dict.fromkeys([*([eos] if eos is not None else []), *companions.generation_eos])),
        pad_token_id=ids["pad_token"],
        add_bos_token=is_aquila or _adds_bos(backend, bos) if add_bos is None else bool(add_bos),
        chat_template=companions.chat_template,
        fim=AQUILA_FIM if is_aquila else _fim(companions),
    )


def _adds_bos(backend: tokenizers.Tokenizer, bos_token_id: int | None) -> bool:
    """What the file's own post-processor does to a prompt."""
    return bos_token_id is not None and backend.encode("", add_special_tokens=True).ids[:1] == [bos_token_id]


def _fim(companions: _Companions) -> FimTokens | None:
    roles = companions.config.get("fim")
    if roles is None:
        return None
    try:
        return FimTokens(**roles)
    except TypeError as error:
        raise TokenizerError(
            f"{companions.config_path}: fim is {roles!r}; "
            "it must map prefix, suffix and middle (and pad, file_sep, repo_name if there) to ids"
        ) from error


def _add_missing(backend: tokenizers.Tokenizer, added: Mapping[int, AddedToken], where: Path) -> None:
    known = backend.get_added_tokens_decoder()
    for token_id in sorted(added):
        token = added[token_id]
        if token_id in known and known[token_id].content == token.content:
            continue
        backend.add_tokens([token])
        if (found := backend.token_to_id(token.content)) != token_id:
            raise TokenizerError(
                f"{where}: added token {token.content!r} has id {token_id}, but its place in the vocabulary "
                f"is {found}; vocabulary and configuration do not belong together, fetch both again"
            )


def _read_chat_template(directory: Path, config: Mapping[str, Any]) -> str | None:
    path = directory / "chat_template.jinja"
    if path.is_file():
        return _read_text(path)
    template = config.get("chat_template")
    if isinstance(template, list):  # several, each an object with name and template
        return next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return template


def _read_vocab(path: Path) -> dict[str, int]:
    vocab = _read_object(path)
    wrong = next((text for text, token_id in vocab.items() if type(token_id) is not int), None)
    if wrong is not None:
        raise TokenizerError(f"{path}: the id of {wrong!r} is {vocab[wrong]!r}, not a number; fetch the file again")
    check_ids(vocab, str(path))
    return vocab


def _read_merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise TokenizerError(f"{path}, line {number}: {line!r} is not a pair of entries; fetch the file again")
        merges.append((left, right))
    return merges


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an absent file is an empty one."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise TokenizerError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}); fetch the file again"
        ) from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: holds a JSON {type(value).__name__}, expected an object; fetch the file again")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: byte {error.start} is not UTF-8; fetch the file again") from error


def _content(value: Any, where: str) -> str:
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise TokenizerError(f"{where} is {value!r}; expected a text or an object with a content")
    return text


def _added_token(value: Any, where: str) -> AddedToken:
    flags = {} if isinstance(value, str) else value
    return AddedToken(
        _content(value, where),
        special=flags.get("special", True),
        lstrip=flags.get("lstrip", False),
        rstrip=flags.get("rstrip", False),
        single_word=flags.get("single_word", False),
        normalized=flags.get("normalized", False),
    )


def _ids(value: Any, where: str) -> tuple[int, ...]:
    """One id or a list of them."""
    if value is None:
        return ()
    return tuple(_id(each, where) for each in (value if isinstance(value, list) else [value]))


def _id(value: Any, where: str) -> int:
    if not str(value).isdecimal():
        raise TokenizerError(f"{where} is {value!r}; expected a token id")
    return int(value)
