"""Guesses of the tokens to come, looked up in a sequence's own text: what followed when it last said the same.

Source: Saxena 2023, "Prompt lookup decoding"; the step that computes guesses checks them as in Leviathan et al. 2023,
arXiv:2211.17192, section 2.3. Copies, edits and repeated phrases are guessed well, new text is not, so every sequence
learns how far its guesses hold. A guess that was not thought worth computing is compared with the tokens that came all
the same: learning costs no step.
"""

from array import array
from collections.abc import Iterable, Sequence

DRAFT_TOKENS = 4  # for a runner that has no advice of its own
MAX_MATCH = 8  # tokens that agree before a guess; more of them tell nothing more
MAX_CANDIDATES = 64  # places that are compared for one guess
FIRST_RATE = 0.5  # share of guesses thought right before any was seen
LEARNING_RATE = 0.125  # what a token changes of that share
ROW_COST = 0.15  # for a runner that has none of its own


class NgramIndex:
    """A growing text, and for every pair of its tokens the places that follow one: a hash chain, as in Deflate.

    Source of the chain: RFC 1951, section 4. A token takes constant time and 80 bytes in a text, 200 at most.
    """

    def __init__(self, token_ids: Iterable[int] = ()):
        self.token_ids = array("q")
        self._latest: dict[tuple[int, int], int] = {}  # pair -> the last place that follows it
        self._earlier = array("q")  # place -> the one before it that follows the same pair; 0 when there is none
        self.extend(token_ids)

    def extend(self, token_ids: Iterable[int]) -> None:
        """Adds tokens at the end."""
        text, latest = self.token_ids, self._latest
        for token_id in token_ids:
            place = len(text)
            earlier = 0
            if place >= 2:
                pair = (text[-2], text[-1])
                earlier = latest.get(pair, 0)
                latest[pair] = place
            self._earlier.append(earlier)
            text.append(token_id)

    def match(self) -> tuple[int, int]:
        """The longest ending of the text that it had before, and the place that followed it then.

        Returns:
            Number of tokens that agree, 2 .. `MAX_MATCH`, and the place; of equally long ones the last. (0, 0) when
            not even the last pair was there before.
        """
        text = self.token_ids
        end = len(text)
        place = self._latest.get((text[-2], text[-1]), 0) if end > 2 else 0
        longest, best = 0, 0
        for _ in range(MAX_CANDIDATES):
            if not place or longest == MAX_MATCH:
                break
            length = 2
            while length < min(MAX_MATCH, place) and text[place - length - 1] == text[end - length - 1]:
                length += 1
            if length > longest:
                longest, best = length, place
            place = self._earlier[place]
        return longest, best

    def copy(self, place: int, count: int) -> list[int]:
        """`count` tokens from `place` on; behind the end of the text they repeat, as in an LZ77 copy."""
        period = len(self.token_ids) - place
        return [self.token_ids[place + offset % period] for offset in range(count)]


class Drafter:
    """Guesses for one sequence, and how often they were right.

    Args:
        token_ids: the text so far.
        max_draft_tokens: tokens of one guess at most.
    """

    def __init__(self, token_ids: Iterable[int], max_draft_tokens: int):
        self.max_draft_tokens = max_draft_tokens
        self.rates = [FIRST_RATE] * (MAX_MATCH + 1)  # by the number of tokens that agree before the guessed one
        self._index = NgramIndex(token_ids)
        self._guess: list[int] = []
        self._length = 0  # tokens that agree before the guess

    def draft(self, limit: int, worth: float) -> list[int]:
        """Tokens that may come next and are worth a row of the step each, `limit` at most; often none.

        Args:
            limit: tokens that can be of use.
            worth: the chance of being right from which a row pays, see `row_worth`.
        """
        self._length, place = self._index.match()
        self._guess = self._index.copy(place, self.max_draft_tokens) if self._length else []
        count, chance = 0, 1.0
        while count < min(len(self._guess), limit):
            chance *= self.rates[self._agreeing(count)]  # right only when all before it are
            if chance < worth:
                break
            count += 1
        return self._guess[:count]

    def observe(self, token_ids: Sequence[int]) -> None:
        """Takes the tokens that came, and learns from them what the last guess was worth, computed or not."""
        for offset, (guessed, came) in enumerate(zip(self._guess, token_ids, strict=False)):
            place = self._agreeing(offset)
            self.rates[place] += ((guessed == came) - self.rates[place]) * LEARNING_RATE
            if guessed != came:
                break
        self._guess = []
        self._index.extend(token_ids)

    def _agreeing(self, offset: int) -> int:
        return min(self._length + offset, MAX_MATCH)


def row_worth(num_decoding: int, row_cost: float = ROW_COST) -> float:
    """The chance from which a guess pays in a step of `num_decoding` >= 1 sequences.

    A step of n rows takes 1 + c (n - 1) and gives n tokens (c: `row_cost`). One more row takes c and gives a token with
    some chance: tokens per time rise when chance / c > n / (1 + c (n - 1)). A full batch leaves little to gain.
    """
    return row_cost * num_decoding / (1 + row_cost * (num_decoding - 1))
