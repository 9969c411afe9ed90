"""Markdown on the terminal as it is written: finished blocks are printed once, the last one is redrawn."""

import re
import time
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment

from aquila.chat.markdown_blocks import MarkdownBlocks

# A model's text must not move the cursor or retitle the window: no control characters but tab and newline.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class LiveMarkdown:
    """Context manager that shows a growing text: `push` it piece by piece.

    Everything is drawn by the caller's thread: with rich's own refreshing thread, a redraw and a finished block can
    cross each other and leave lines behind.
    """

    def __init__(self, console: Console, *, seconds_between_redraws: float = 0.1) -> None:
        self._console = console
        self._blocks = MarkdownBlocks()
        self._num_printed = 0
        self._seconds_between_redraws = seconds_between_redraws
        self._last_redraw = time.monotonic()
        self._live = Live(console=console, get_renderable=self._open_block, auto_refresh=False, transient=True)

    def __enter__(self) -> "LiveMarkdown":
        self._live.start(refresh=True)
        return self

    def push(self, text: str) -> None:
        for block in self._blocks.push(_CONTROL.sub("", text)):
            self._print(block)
        now = time.monotonic()
        if now - self._last_redraw >= self._seconds_between_redraws:
            self._last_redraw = now
            self._live.refresh()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()
        self._print(self._blocks.open)

    def _print(self, block: str) -> None:
        if not block.strip():
            return
        if self._num_printed:
            self._console.print()
        self._console.print(_Block(block))
        self._num_printed += 1

    def _open_block(self) -> RenderableType:
        if not self._num_printed and not self._blocks.open:
            return "…"
        return _Block(self._blocks.open, max_lines=max(1, self._console.height - 2))


class _Block:
    """Markdown without blank lines around it.

    Args:
        text: source.
        max_lines: show only the last so many: what is taller than the terminal could not be erased for a redraw.
    """

    def __init__(self, text: str, *, max_lines: int | None = None) -> None:
        # Links are spelled out: a model should not hide where one leads.
        self._markdown = Markdown(text, code_theme="ansi_dark", hyperlinks=False)
        self._max_lines = max_lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        lines = console.render_lines(self._markdown, options, pad=False)
        inked = [index for index, line in enumerate(lines) if any(part.text.strip() for part in line)]
        lines = lines[inked[0] : inked[-1] + 1] if inked else []
        for line in lines[-self._max_lines :] if self._max_lines else lines:
            yield from line
            yield Segment.line()
