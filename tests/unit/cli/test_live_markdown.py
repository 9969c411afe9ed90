"""What is left on the screen when an answer has streamed: all of it, once."""

import io
import re

import pytest
from rich.console import Console

from aquila.cli.live_markdown import LiveMarkdown

ANSWER = """# Title

A paragraph that is longer than one line of this narrow terminal, 中文也一样很长很长很长很长很长很长。

```python
CODE
```

- item

1. one

2. two

| a | b |
|---|---|
| x | y |

end **bold**
""".replace("CODE", "\n".join(f"line_{number} = {number}" for number in range(30)))

_STEP = re.compile(r"\x1b\[\??(\d*)([A-Za-z])|[\r\n]|[^\x1b\r\n]+")


def replay(output: str, *, height: int) -> list[str]:
    """The lines that a terminal of so many rows holds at the end, with those that scrolled out."""
    lines, row, column = [""], 0, 0
    for step in _STEP.finditer(output):
        if step[0] == "\r":
            column = 0
        elif step[0] == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif step[2] == "A":
            row -= int(step[1])
            assert row >= max(0, len(lines) - height), "a redraw reaches lines that have scrolled out"
        elif step[2] == "K":
            lines[row] = ""
        elif step[2] is None:
            lines[row] = lines[row][:column].ljust(column) + step[0] + lines[row][column + len(step[0]) :]
            column += len(step[0])
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_a_streamed_answer_ends_up_as_one_printed_whole(chunk: int):
    screens = []
    for size in (chunk, len(ANSWER)):
        output = io.StringIO()
        console = Console(file=output, force_terminal=True, width=40, height=10, color_system=None)
        with LiveMarkdown(console, seconds_between_redraws=0) as live:
            for start in range(0, len(ANSWER), size):
                live.push(ANSWER[start : start + size])
        screens.append(replay(output.getvalue(), height=10))
    assert screens[0] == screens[1]
    text = "\n".join(screens[0])
    words = ["Title", "paragraph", "line_0 ", "line_29 ", "• item", "1 one", "2 two", "a  b", "x  y", "end bold"]
    assert [text.count(word) for word in words] == [1] * len(words)
    assert "\n\n\n" not in text.strip("\n")
