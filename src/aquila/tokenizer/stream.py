"""Text of a token stream as it comes: whole characters only, and never the beginning of a stop string."""

import codecs
from collections.abc import Sequence

from aquila.errors import ConfigError
from aquila.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Turns generated tokens into text that may be shown at once.

    What `push` and `flush` return, joined, is the decoded text of all tokens up to the stop string that is
    complete first; it does not depend on how the text is split into tokens. Held back are the bytes of an
    unfinished character and an ending that may still grow into a stop string.

    Args:
        tokenizer: gives the bytes of each token.
        stop: strings that end the text; they are not part of it.
        skip_special: special tokens give no text.

    Raises:
        ConfigError: a stop string is empty.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, skip_special: bool = True) -> None:
        if "" in stop:
            raise ConfigError("a stop string is empty; leave it out or give at least one character")
        self.stop_reason: str | None = None  # the stop string that ended the text
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # decoded, but perhaps the beginning of a stop string

    @property
    def stopped(self) -> bool:
        """A stop string was met: later tokens give no text."""
        return self.stop_reason is not None

    def push(self, token_id: int) -> str:
        """Takes one token and returns the text that is now safe to show, often empty."""
        if self.stopped:
            return ""
        data = self._tokenizer.token_bytes(token_id, with_special=not self._skip_special)
        return self._take(self._decoder.decode(data))

    def flush(self, *, cut: bool = False) -> str:
        """Ends the text and returns what was held back.

        An unfinished character becomes U+FFFD; when the text was `cut` short, so that its other bytes would have come,
        it is left out.
        """
        if self.stopped:
            return ""
        if cut:
            self._decoder.reset()
        ready = self._take(self._decoder.decode(b"", final=True))
        rest = "" if self.stopped else self._held
        self._held = ""
        return ready + rest

    def _take(self, text: str) -> str:
        if not text:
            return ""
        self._held += text
        if (found := self._first_stop()) is not None:
            start, self.stop_reason = found
            keep = len(self._held) - start
        else:
            keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        ready, self._held = self._held[:cut], self._held[cut:]
        return ready

    def _first_stop(self) -> tuple[int, str] | None:
        """Start and text of the stop string that is complete first; of two that end together, the longer
        one."""
        ends = [(start + len(stop), start, stop) for stop in self._stop if (start := self._held.find(stop)) >= 0]
        return min(ends)[1:] if ends else None


def _overlap(text: str, stop: str) -> int:
    """Length of the longest ending of `text` with which `stop` begins, short of all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
