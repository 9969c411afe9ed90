"""What a model fills into the middle, cleaned as it comes: one place for the command line, the server and editors.

A middle ends where the model begins to repeat what stands after the cursor, and where a line leaves the block that it
was asked for. What may still turn out to be either is held back, so that nothing has to be taken back: the text given
out does not depend on how it was cut into pieces.
"""

_MIN_LINES = 2  # not blank, of the suffix: code says `return None` more than once, but seldom what follows it too
_MIN_LETTERS = 3  # or digits, in a repeat of the suffix: brackets repeat without being one


class MiddleStream:
    """Takes a completion piece by piece and gives the part of it that belongs into the middle.

    Args:
        suffix: the text after the cursor.
        min_indent: the middle ends before a line, not its first, that is indented less; 0 for no limit.
        single_line: the middle ends with its first line that is not empty.
    """

    def __init__(self, suffix: str, *, min_indent: int = 0, single_line: bool = False) -> None:
        self.done = False  # nothing will come any more: the request can be cancelled
        self.text = ""  # all that was given out
        self._repeat = _first_lines(suffix)
        self._min_indent = min_indent
        self._single_line = single_line
        self._held = ""

    def push(self, text: str) -> str:
        """Takes a piece and returns what is safe to show, often empty."""
        ready = ""
        for character in text:  # one by one, so that pieces of any size give the same
            if self.done:
                break
            self._held += character
            end = self._end()
            ready += self._give(len(self._held) - self._undecided()) if end is None else self._cut(end)
        return ready

    def finish(self, *, ended: bool) -> str:
        """The rest. `ended`: the model ended the middle itself; otherwise it was cut and may be within a repeat."""
        if self.done:
            return ""
        repeated = self._repeated(self._held, whole_lines=ended)
        if repeated or not ended:
            return self._cut(len(self._held) - repeated)
        self.done = True
        return self._give(len(self._held))

    def _repeated(self, text: str, *, whole_lines: bool) -> int:
        """Characters at the end of `text` that stand after the cursor already, and are too many for chance."""
        overlap = _overlap(text, self._repeat)
        found, rest = self._repeat[:overlap], self._repeat[overlap:]
        is_whole = found.endswith("\n") or rest[:1] in ("", "\n")
        return overlap if _says_enough(found) and (is_whole or not whole_lines) else 0

    def _end(self) -> int | None:
        """Where the held text stops belonging to the middle; None as far as can be seen."""
        ends = []
        if self._repeat and (found := self._held.find(self._repeat)) >= 0:
            ends.append(found)
        if self._single_line:
            first = 0 if self.text else len(self._held) - len(self._held.lstrip())
            if (newline := self._held.find("\n", first)) >= 0:
                ends.append(newline)
        if self._min_indent and (left := self._leaves_block()) is not None:
            ends.append(left)
        return min(ends) if ends else None

    def _leaves_block(self) -> int | None:
        """Start of the first line that is indented less than it must be; the held text begins within a line."""
        start = self._held.find("\n") + 1
        while start:
            end = self._held.find("\n", start)
            line = self._held[start : end if end >= 0 else len(self._held)]
            body = line.lstrip(" \t")
            if body.strip() and len(line) - len(body) < self._min_indent:
                return start
            start = end + 1
        return None

    def _undecided(self) -> int:
        """Characters at the end that may still be cut off: what a repeat may begin with, and white space before it."""
        head = self._held[: len(self._held) - _overlap(self._held, self._repeat)]
        return len(self._held) - len(head.rstrip())

    def _cut(self, end: int) -> str:
        self.done = True
        kept = self._held[:end]
        self._held = kept[: len(kept) - self._repeated(kept, whole_lines=True)].rstrip()
        return self._give(len(self._held))

    def _give(self, count: int) -> str:
        ready, self._held = self._held[:count], self._held[count:]
        self.text += ready
        return ready


def clean_middle(text: str, suffix: str, *, ended: bool, min_indent: int = 0, single_line: bool = False) -> str:
    """`MiddleStream` for a whole completion."""
    stream = MiddleStream(suffix, min_indent=min_indent, single_line=single_line)
    return stream.push(text) + stream.finish(ended=ended)


def _first_lines(suffix: str) -> str:
    """The beginning of the suffix, whole lines that say enough to be recognised; empty where there is too little."""
    end, num_lines = 0, 0
    while end < len(suffix):
        newline = suffix.find("\n", end)
        start, end = end, len(suffix) if newline < 0 else newline + 1
        num_lines += bool(suffix[start:end].strip())
        if num_lines >= _MIN_LINES and _says_enough(suffix[:end]):
            return suffix[:end]
    return suffix if _says_enough(suffix) else ""


def _says_enough(text: str) -> bool:
    return sum(character.isalnum() for character in text) >= _MIN_LETTERS


def _overlap(text: str, beginning: str) -> int:
    """Length of the longest ending of `text` with which `beginning` begins."""
    longest = min(len(text), len(beginning))
    return next((length for length in range(longest, 0, -1) if text.endswith(beginning[:length])), 0)
