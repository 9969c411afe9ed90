"""Fill in the middle: documents cut in three and learned in another order, so that a model completes at a cursor.

    PSM   [BOS] <prefix> before <suffix> after <middle> between EOS
    SPM   [BOS] <prefix> <suffix> after <middle> before between EOS

Whatever is cut, every byte of the document stays. The end token after the middle is what teaches the model to stop
there. Sources: Bavarian et al. 2022, arXiv:2207.14255 (both orders; cuts between characters); Fried et al. 2022,
arXiv:2204.05999; the second order as in Li et al. 2023, arXiv:2305.06161.
"""

from collections.abc import Sequence

import numpy as np

from aquila.data.blend import Dice
from aquila.data.config import FimConfig
from aquila.errors import ConfigError
from aquila.tokenizer.tokenizer import Tokenizer

_GROWTH = 8  # tokens: three marks, an end token, and what two cuts through tokens may add
_MIN_CHARACTERS = 8  # shorter pieces leave nothing to look at
_MAX_LINES = 10  # of a middle made of lines: what people ask an editor for


class FillInTheMiddle:
    """Rearranges documents of token ids.

    Args:
        tokenizer: what made the ids, with fill-in-the-middle marks.
        rate: share of the pieces that are rearranged, where there is room.
        config: orders and kinds of cuts.

    Raises:
        ConfigError: the vocabulary has no marks or no end token.
    """

    def __init__(self, tokenizer: Tokenizer, rate: float, config: FimConfig) -> None:
        if tokenizer.fim is None:
            raise ConfigError(
                "fim_rate: this vocabulary has no fill-in-the-middle tokens; set it to 0, or train a tokenizer with "
                "`aquila tokenizer train`, which adds them"
            )
        if not tokenizer.eos_token_ids:
            raise ConfigError("fim_rate: this tokenizer has no end token, and a middle must end; set it to 0")
        self._tokenizer, self._fim = tokenizer, tokenizer.fim
        self._eos = tokenizer.eos_token_ids[0]
        self._rate, self._spm_rate = rate, config.spm_rate
        self._weights = (config.character, config.line, config.block)

    def reserve(self, length: int, mean_tokens: float) -> int:
        """Places of a sequence to keep free, where documents have `mean_tokens` tokens on average."""
        pieces = 1 + length / max(1.0, mean_tokens)
        return min(length // 4, int(_GROWTH * (1 + self._rate * pieces)))

    def rearrange_all(self, pieces: Sequence[np.ndarray], length: int, key: int, *, masked: bool) -> list[np.ndarray]:
        """Rearranges some of the pieces of a sequence. A piece for whose growth there is no room stays as it is."""
        dice = Dice(key)
        overlap = len(pieces) if masked else 1  # tokens that are only predicted and take no place
        room = length - (sum(map(len, pieces)) - overlap)
        done = []
        for piece in pieces:
            changed = self.rearrange(piece, dice) if dice.uniform() < self._rate else None
            if changed is None or len(changed) - len(piece) > room:
                done.append(piece)
                continue
            room -= len(changed) - len(piece)
            done.append(changed)
        return done

    def rearrange(self, token_ids: np.ndarray, dice: Dice) -> np.ndarray | None:
        """One document, or the part of it that is in a sequence, rearranged; None where it is too short."""
        ids = token_ids.tolist()
        begins = self._tokenizer.bos_token_id is not None and ids[:1] == [self._tokenizer.bos_token_id]
        head, body = (ids[:1], ids[1:]) if begins else ([], ids)
        if body and body[-1] in self._tokenizer.eos_token_ids:
            body = body[:-1]
        parts = self._cut(body, dice)
        if parts is None:
            return None
        before, between, after = parts
        marks = self._fim
        if dice.uniform() < self._spm_rate:
            order = [marks.prefix, marks.suffix, *after, marks.middle, *before, *between]
        else:
            order = [marks.prefix, *before, marks.suffix, *after, marks.middle, *between]
        return np.array([*head, *order, self._eos], dtype=np.int64)

    def _cut(self, body: list[int], dice: Dice) -> tuple[list[int], list[int], list[int]] | None:
        text = self._text(body)
        if text is None:  # cut between tokens, which loses nothing either
            if len(body) < _MIN_CHARACTERS:
                return None
            start, stop = character_cut(len(body), dice)
            return body[:start], body[start:stop], body[stop:]
        if len(text) < _MIN_CHARACTERS:
            return None
        kind = dice.choose(self._weights)
        cut = (block_cut(text, dice) if kind == 2 else None) or (line_cut(text, dice) if kind >= 1 else None)
        start, stop = cut or character_cut(len(text), dice)
        encode = self._tokenizer.encode
        return encode(text[:start]), encode(text[start:stop]), encode(text[stop:])

    def _text(self, body: list[int]) -> str | None:
        """None where encoding the text of these ids in parts might not give their bytes back."""
        if self._tokenizer.is_sentencepiece or not self._tokenizer.special_ids.isdisjoint(body):
            return None
        try:
            return b"".join(map(self._tokenizer.token_bytes, body)).decode("utf-8")
        except UnicodeDecodeError:  # the sequence begins or ends within a character
            return None


def character_cut(count: int, dice: Dice) -> tuple[int, int]:
    """Two different places between `count` things."""
    first, second = dice.below(count + 1), dice.below(count)
    second += second >= first
    return min(first, second), max(first, second)


def line_cut(text: str, dice: Dice) -> tuple[int, int] | None:
    """Some whole lines, the first not empty, without the newline behind the last; None in a text of one line."""
    bounds = _line_bounds(text)
    filled = [line for line, (start, stop) in enumerate(bounds) if stop > start]
    if len(bounds) < 2 or not filled:
        return None
    first = filled[dice.below(len(filled))]
    last = first + dice.below(min(_MAX_LINES, len(bounds) - first))
    return bounds[first][0], bounds[last][1]


def block_cut(text: str, dice: Dice) -> tuple[int, int] | None:
    """The lines below a line that are indented deeper than it; None where nothing is indented."""
    bounds = _line_bounds(text)
    depths = [_depth(text[start:stop]) for start, stop in bounds]
    heads = [line for line in range(len(bounds) - 1) if 0 <= depths[line] < depths[line + 1]]
    if not heads:
        return None
    head = heads[dice.below(len(heads))]
    last = line = head + 1
    while line < len(bounds) and (depths[line] < 0 or depths[line] > depths[head]):
        last = line if depths[line] >= 0 else last
        line += 1
    return bounds[head + 1][0], bounds[last][1]


def _line_bounds(text: str) -> list[tuple[int, int]]:
    """Start and end of each line, without its newline."""
    bounds, start = [], 0
    for line in text.split("\n"):
        bounds.append((start, start + len(line)))
        start += len(line) + 1
    return bounds if bounds[-1][0] < bounds[-1][1] else bounds[:-1]


def _depth(line: str) -> int:
    """Width of the indentation; -1 for a blank line."""
    stripped = line.lstrip(" \t")
    return len(line[: len(line) - len(stripped)].expandtabs(4)) if stripped.strip() else -1
