"""Byte-level BPE backends, and how texts are cut into words before merging.

Each way of cutting has the name GGUF files use for it (`tokenizer.ggml.pre`). It is a sequence of patterns:
each one cuts the pieces the previous ones left, and what lies between two matches is a piece as well. Names
and patterns as listed in llama.cpp's vocabulary loader.
"""

from collections.abc import Mapping, Sequence

import tokenizers
from tokenizers import AddedToken, Regex, decoders, pre_tokenizers
from tokenizers.models import BPE

from aquila.errors import TokenizerError

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS_AND_SPACE = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = (
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
)  # cased words: camelCase is cut
_SLASH_SYMBOLS_AND_SPACE = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

PATTERNS: dict[str, tuple[str, ...]] = {
    "gpt-2": (GPT2,),
    "smollm": (r"\p{N}", GPT2),  # every digit by itself
    "llama-bpe": (rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS_AND_SPACE}",),
    "qwen2": (rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SYMBOLS_AND_SPACE}",),
    "seed-coder": (rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"),
    "deepseek-v3": (
        r"\p{N}{1,3}",
        r"[一-龥぀-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"),
    "tekken": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
        rf"|{_SLASH_SYMBOLS_AND_SPACE}",
    ),
    "gpt-4o": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?|\p{{N}}{{1,3}}|{_SLASH_SYMBOLS_AND_SPACE}",
    ),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
}

SAME_AS: dict[str, str] = {  # other names GGUF files carry for the same cuts
    **dict.fromkeys(("phi-2", "mpt", "olmo", "jais", "gigachat", "a.x-4.0", "mellum", "modern-bert"), "gpt-2"),
    **dict.fromkeys(("exaone4", "trillion", "granite-docling"), "gpt-2"),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"), "smollm"),
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), "llama-bpe"),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe", "glm4"), "llama-bpe"),
    **dict.fromkeys(("stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan", "solar-open", "kormo", "grok-2"), "qwen2"),
    **dict.fromkeys(("hunyuan-dense", "joyai-llm"), "deepseek-v3"),
    **dict.fromkeys(("llama4", "kanana2", "minimax-m2"), "gpt-4o"),
}

WHOLE_WORDS_FIRST = frozenset(  # a word that is an entry is taken whole, without looking at merges
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken")
)

# Tells the ways of cutting apart by what they do, however a tokenizer.json spells them.
_PROBE = (
    "It's 12345 1st  HTTPServer's camelCase I'LL\n\n  def f(x):\n\t\treturn x_1 != '//a'\r\n"
    "你好，世界 2023年！ ｆｕｌｌ ３４ a.b.c/d/ $x=<y>^~|z`` (foo)\n\n\n   ...!?\n x  \t y½²"
)


def pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """The way of cutting a GGUF file names.

    Raises:
        TokenizerError: the name is not one of `PATTERNS` or `SAME_AS`.
    """
    patterns = PATTERNS.get(SAME_AS.get(name, name))
    if patterns is None:
        known = sorted({*PATTERNS, *SAME_AS})
        raise TokenizerError(
            f"pre-tokenizer {name!r} (tokenizer.ggml.pre) is unknown; known are {', '.join(known)}; "
            "convert the model from its original files, whose tokenizer.json says how texts are cut"
        )
    ends_in_gpt2 = patterns[-1] == GPT2  # the library has that one built in, and quicker
    cuts = [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        for pattern in (patterns[:-1] if ends_in_gpt2 else patterns)
    ]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=ends_in_gpt2)])


def pre_tokenizer_name(backend: tokenizers.Tokenizer) -> str:
    """The GGUF name of a tokenizer's way of cutting.

    Raises:
        TokenizerError: no known name cuts the way this tokenizer does, so that no GGUF file can describe it.
    """
    pieces = _pieces(backend.pre_tokenizer)
    whole = backend.model.ignore_merges if isinstance(backend.model, BPE) else False
    for name in PATTERNS:
        if pieces == _pieces(pre_tokenizer(name)) and whole == (name in WHOLE_WORDS_FIRST):
            return name
    raise TokenizerError(
        "the tokenizer cuts texts in a way no GGUF file can name; keep the model as native or hf instead"
    )


def build_backend(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    *,
    pre: str,
    added: Sequence[AddedToken] = (),
    where: str,
) -> tokenizers.Tokenizer:
    """A byte-level BPE backend.

    Args:
        vocab: entry -> id.
        merges: pairs of entries, first merge first.
        pre: name of the way of cutting (`PATTERNS`).
        added: tokens matched whole, in the order of their ids.
        where: names the source in error messages.

    Raises:
        TokenizerError: ids have holes or repeat, or a merge names an unknown entry.
    """
    check_ids(vocab, where)
    pre_tokenize = pre_tokenizer(pre)
    try:
        model = BPE(vocab=dict(vocab), merges=list(merges), ignore_merges=pre in WHOLE_WORDS_FIRST)
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(
            f"{where}: {error}; vocabulary and merges do not belong together, fetch both again"
        ) from error
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenize
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(list(added))
    return backend


def check_ids(vocab: Mapping[str, int], where: str) -> None:
    """Ids must be 0, 1, 2 ... without holes: rows of the embedding are found by them."""
    ids = sorted(vocab.values())
    if ids == list(range(len(ids))):
        return
    place = next(index for index, token_id in enumerate(ids) if token_id != index)
    found = "twice" if place and ids[place] == ids[place - 1] else "not at all"
    wrong = ids[place] if found == "twice" else place
    raise TokenizerError(
        f"{where}: token id {wrong} is there {found}, in a vocabulary of {len(ids)}; "
        "fetch the file again or rebuild it from its source"
    )


def _pieces(pre: pre_tokenizers.PreTokenizer | None) -> list[str]:
    return [piece for piece, _ in pre.pre_tokenize_str(_PROBE)] if pre is not None else [_PROBE]
