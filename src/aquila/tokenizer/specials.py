"""Special tokens by name: Aquila's own, fill-in-the-middle, and the ones that end a text.

Aquila's vocabulary has 100,000 byte-level entries (ids 0-99999) and eight specials after them. Its ids
100002-100005 were never used in training, so they serve as fill-in-the-middle sentinels without resizing any
embedding. There are four of them for five names: `<|file_sep|>` and `<|repo_name|>` share 100002, because a
repository name only ever stands before the first file separator and the two are told apart by position.
"""

from collections.abc import Callable
from dataclasses import dataclass

END_OF_TEXT = "<|endoftext|>"

AQUILA_BASE_VOCAB_SIZE = 100_000
AQUILA_SPECIALS: tuple[str, ...] = (  # ids 100000 .. 100007, in this order
    "<|startofpiece|>",
    "<|endofpiece|>",
    "<|LDWANG|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "[CLS]",
    "</s>",
)


@dataclass(frozen=True)
class FimTokens:
    """Ids that mark the parts of a fill-in-the-middle prompt; some vocabularies lack the last three."""

    prefix: int
    suffix: int
    middle: int
    pad: int | None = None
    file_sep: int | None = None
    repo_name: int | None = None

    def ids(self) -> dict[str, int]:
        """The roles this vocabulary has, by name."""
        return {role: token_id for role, token_id in vars(self).items() if token_id is not None}


AQUILA_FIM = FimTokens(prefix=100_003, suffix=100_004, middle=100_005, file_sep=100_002, repo_name=100_002)

FIM_NAMES: dict[str, str] = {  # the texts new tokenizers use, and that llama.cpp and editors look for
    "prefix": "<|fim_prefix|>",
    "suffix": "<|fim_suffix|>",
    "middle": "<|fim_middle|>",
    "pad": "<|fim_pad|>",
    "file_sep": "<|file_sep|>",
    "repo_name": "<|repo_name|>",
}

FIM_TEXTS: dict[str, tuple[str, ...]] = {  # every text a role is known under, best first
    "prefix": (
        "<|fim_prefix|>",
        "<fim_prefix>",
        "<fim-prefix>",
        "<｜fim▁begin｜>",
        "<|code_prefix|>",
        "▁<PRE>",
    ),
    "suffix": (
        "<|fim_suffix|>",
        "<fim_suffix>",
        "<fim-suffix>",
        "<｜fim▁hole｜>",
        "<|code_suffix|>",
        "▁<SUF>",
    ),
    "middle": (
        "<|fim_middle|>",
        "<fim_middle>",
        "<fim-middle>",
        "<｜fim▁end｜>",
        "<|code_middle|>",
        "▁<MID>",
    ),
    "pad": ("<|fim_pad|>", "<fim_pad>", "<fim-pad>"),
    "file_sep": ("<|file_sep|>", "<file_sep>", "<|file_separator|>"),
    "repo_name": ("<|repo_name|>", "<repo_name>", "<reponame>"),
}

ALL_FIM_TEXTS: frozenset[str] = frozenset(text for texts in FIM_TEXTS.values() for text in texts)

END_TEXTS: tuple[str, ...] = (  # a control token with one of these texts ends generation, whatever the files declare
    END_OF_TEXT,
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<end_of_turn>",
    "<EOT>",
    "▁<EOT>",
    "<｜end▁of▁sentence｜>",
)


def find_fim(token_id: Callable[[str], int | None]) -> FimTokens | None:
    """Fill-in-the-middle ids, found by token text; None unless prefix, suffix and middle exist."""
    found = {role: _first_known(texts, token_id) for role, texts in FIM_TEXTS.items()}
    if found["prefix"] is None or found["suffix"] is None or found["middle"] is None:
        return None
    return FimTokens(
        prefix=found["prefix"],
        suffix=found["suffix"],
        middle=found["middle"],
        pad=found["pad"],
        file_sep=found["file_sep"],
        repo_name=found["repo_name"],
    )


def is_control_text(text: str) -> bool:
    """Whether a token steers the model rather than stands for text, judged by its looks.

    Some vocabularies (Qwen2 among them) declare `<|fim_prefix|>` and the like as ordinary added tokens. User
    text must not be able to produce them all the same.
    """
    return text in ALL_FIM_TEXTS or (text.startswith(("<|", "<｜")) and text.endswith(("|>", "｜>")))


def _first_known(texts: tuple[str, ...], token_id: Callable[[str], int | None]) -> int | None:
    return next((found for text in texts if (found := token_id(text)) is not None), None)
