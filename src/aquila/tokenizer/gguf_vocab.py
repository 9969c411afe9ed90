"""The vocabulary inside a GGUF file: read into a tokenizer, and written so that llama.cpp reads it.

Two kinds: `gpt2`, byte-level BPE with explicit merges, and `llama`, SentencePiece BPE with scores and byte
fallback. Key names and token types: the GGUF specification.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, normalizers
from tokenizers.models import BPE

from aquila.errors import TokenizerError
from aquila.tokenizer.byte_level import build_backend, pre_tokenizer_name
from aquila.tokenizer.specials import FimTokens
from aquila.tokenizer.tokenizer import BYTE_PIECE, SPACE_PIECE, Tokenizer

log = logging.getLogger(__name__)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type

KEY = "tokenizer.ggml."
FIM_KEYS = {
    "prefix": KEY + "fim_pre_token_id",
    "suffix": KEY + "fim_suf_token_id",
    "middle": KEY + "fim_mid_token_id",
    "pad": KEY + "fim_pad_token_id",
    "file_sep": KEY + "fim_sep_token_id",
    "repo_name": KEY + "fim_rep_token_id",
}


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's key/values describe.

    Raises:
        TokenizerError: a key is missing, or the vocabulary is of an unknown kind or contradicts itself.
    """
    model = metadata.get(KEY + "model")
    if model not in ("gpt2", "llama"):
        raise TokenizerError(
            f"{KEY}model is {model!r}; supported are 'gpt2' (byte-level BPE) and 'llama' (SentencePiece "
            "BPE); convert the model from its original files instead"
        )
    tokens = _required(metadata, "tokens")
    types = [int(kind) for kind in metadata.get(KEY + "token_type", [NORMAL] * len(tokens))]
    if len(types) != len(tokens):
        raise TokenizerError(f"{KEY}token_type has {len(types)} entries for {len(tokens)} tokens; fetch the file again")
    vocab = {text: token_id for token_id, text in enumerate(tokens)}
    if len(vocab) != len(tokens):
        repeated = next(text for token_id, text in enumerate(tokens) if vocab[text] != token_id)
        raise TokenizerError(f"{KEY}tokens holds {repeated!r} twice; fetch the file again")

    backend = _byte_level(metadata, tokens, types, vocab) if model == "gpt2" else _sentencepiece(metadata, types, vocab)
    ends = [metadata.get(f"{KEY}{name}_token_id") for name in ("eos", "eot", "eom")]
    return Tokenizer(
        backend,
        bos_token_id=_optional_int(metadata.get(KEY + "bos_token_id")),
        eos_token_ids=[int(token_id) for token_id in ends if token_id is not None],
        pad_token_id=_optional_int(metadata.get(KEY + "padding_token_id")),
        add_bos_token=bool(metadata.get(KEY + "add_bos_token", _adds_bos(metadata))),
        chat_template=metadata.get("tokenizer.chat_template"),
        fim=_fim(metadata),
        unused_ids=[token_id for token_id, kind in enumerate(types) if kind == UNUSED],
    )


def to_gguf(tokenizer: Tokenizer, *, vocab_size: int | None = None) -> dict[str, Any]:
    """Key/values that describe a tokenizer in a GGUF file.

    Args:
        tokenizer: what to describe.
        vocab_size: rows of the model's embedding; rows without a token become unused tokens.

    Raises:
        TokenizerError: GGUF has no words for this tokenizer, or the embedding is smaller than the vocabulary.
    """
    num_rows = tokenizer.vocab_size if vocab_size is None else vocab_size
    if num_rows < tokenizer.vocab_size:
        raise TokenizerError(
            f"the model has {num_rows} embedding rows for a vocabulary of {tokenizer.vocab_size}; "
            "this tokenizer belongs to another model"
        )
    model = json.loads(tokenizer.backend.to_str())["model"]
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    texts = [tokenizer.token_text(token_id) for token_id in range(tokenizer.vocab_size)]
    unk = model["unk_token"]
    types = [_token_type(tokenizer, token_id, text, unk) for token_id, text in enumerate(texts)]
    num_padding = num_rows - len(texts)
    values: dict[str, Any] = {
        KEY + "model": "llama" if tokenizer.is_sentencepiece else "gpt2",
        KEY + "pre": "default" if tokenizer.is_sentencepiece else pre_tokenizer_name(tokenizer.backend),
        KEY + "tokens": texts + [f"[PAD{token_id}]" for token_id in range(len(texts), num_rows)],
        KEY + "token_type": types + [UNUSED] * num_padding,
        KEY + "add_bos_token": tokenizer.add_bos_token,
        KEY + "add_eos_token": False,
    }
    if tokenizer.is_sentencepiece:
        values[KEY + "scores"] = _scores(texts, merges) + [0.0] * num_padding
        values[KEY + "add_space_prefix"] = tokenizer.adds_space
    else:
        values[KEY + "merges"] = [f"{left} {right}" for left, right in merges]
        values[KEY + "add_space_prefix"] = False
    named = {
        KEY + "bos_token_id": tokenizer.bos_token_id,
        KEY + "eos_token_id": tokenizer.eos_token_ids[0] if tokenizer.eos_token_ids else None,
        KEY + "padding_token_id": tokenizer.pad_token_id,
        KEY + "unknown_token_id": None if unk is None else tokenizer.token_id(unk),
        "tokenizer.chat_template": tokenizer.chat_template,
    }
    if tokenizer.fim:
        named |= {FIM_KEYS[role]: token_id for role, token_id in tokenizer.fim.ids().items()}
    return values | {name: value for name, value in named.items() if value is not None}


def _byte_level(
    metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int], vocab: dict[str, int]
) -> tokenizers.Tokenizer:
    pre = metadata.get(KEY + "pre")
    if pre is None:
        log.warning("%spre is missing: texts are cut the default way, which may not be the model's", KEY)
        pre = "default"
    merges = [tuple(merge.split(" ")) for merge in _required(metadata, "merges")]
    odd = next((merge for merge in merges if len(merge) != 2), None)
    if odd is not None:
        raise TokenizerError(f"{KEY}merges holds {' '.join(odd)!r}, which is not a pair; fetch the file again")
    end = len(tokens)  # specials at the end stay outside the BPE vocabulary, as in the original files
    while end and types[end - 1] in (CONTROL, USER_DEFINED):
        end -= 1
    base = vocab if end == len(tokens) else dict(list(vocab.items())[:end])
    return build_backend(base, merges, pre=pre, added=_added_tokens(tokens, types), where="GGUF vocabulary")


def _sentencepiece(metadata: Mapping[str, Any], types: Sequence[int], vocab: dict[str, int]) -> tokenizers.Tokenizer:
    scores = [float(score) for score in _required(metadata, "scores")]
    if len(scores) != len(vocab):
        raise TokenizerError(f"{KEY}scores has {len(scores)} entries for {len(vocab)} tokens; fetch the file again")
    normal = {text: token_id for text, token_id in vocab.items() if types[token_id] == NORMAL}
    # SentencePiece merges the pair whose product has the best score: the same as merges in that order.
    splits = [
        (-scores[token_id], normal[text[:cut]], normal[text[cut:]], text[:cut], text[cut:])
        for text, token_id in normal.items()
        for cut in range(1, len(text))
        if text[:cut] in normal and text[cut:] in normal
    ]
    unk_id = _optional_int(metadata.get(KEY + "unknown_token_id"))
    tokens = list(vocab)
    backend = tokenizers.Tokenizer(
        BPE(
            vocab=vocab,
            merges=[(left, right) for *_, left, right in sorted(splits)],
            unk_token=tokens[unk_id] if unk_id is not None else None,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    adds_space = bool(metadata.get(KEY + "add_space_prefix", True))
    spaces = normalizers.Replace(" ", SPACE_PIECE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE_PIECE), spaces]) if adds_space else spaces
    strip = [decoders.Strip(" ", 1, 0)] if adds_space else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE_PIECE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    backend.add_tokens(_added_tokens(tokens, types))
    return backend


def _added_tokens(tokens: Sequence[str], types: Sequence[int]) -> list[AddedToken]:
    return [
        AddedToken(text, special=kind != USER_DEFINED, normalized=False)
        for text, kind in zip(tokens, types, strict=True)
        if kind in (CONTROL, UNKNOWN, USER_DEFINED)
    ]


def _token_type(tokenizer: Tokenizer, token_id: int, text: str, unk: str | None) -> int:
    if token_id in tokenizer.unused_ids:
        return UNUSED
    if token_id in tokenizer.special_ids:
        return UNKNOWN if text == unk else CONTROL
    if tokenizer.is_added(token_id):
        return USER_DEFINED
    return BYTE if tokenizer.is_sentencepiece and BYTE_PIECE.fullmatch(text) else NORMAL


def _scores(texts: Sequence[str], merges: Sequence[Sequence[str]]) -> list[float]:
    """Scores that make SentencePiece merge in the order of `merges`; only their order has a meaning."""
    first_rank: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        first_rank.setdefault(left + right, rank)
    return [-float(first_rank.get(text, len(merges))) for text in texts]


def _fim(metadata: Mapping[str, Any]) -> FimTokens | None:
    ids = {role: int(metadata[key]) for role, key in FIM_KEYS.items() if key in metadata}
    return FimTokens(**ids) if {"prefix", "suffix", "middle"} <= ids.keys() else None


def _adds_bos(metadata: Mapping[str, Any]) -> bool:
    """What llama.cpp assumes where the file does not say."""
    return metadata[KEY + "model"] == "llama" or metadata.get(KEY + "pre") in (
        "llama-bpe",
        "llama3",
        "tekken",
    )


def _required(metadata: Mapping[str, Any], name: str) -> Sequence[Any]:
    values = metadata.get(KEY + name)
    if values is None or len(values) == 0:
        raise TokenizerError(f"{KEY}{name} is missing, so the file holds no usable vocabulary; fetch another GGUF file")
    return values


def _optional_int(value: Any) -> int | None:
    return None if value is None else int(value)
