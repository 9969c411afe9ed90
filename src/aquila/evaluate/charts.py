"""Charts as inline SVG. Colours are classes, so a page can be light or dark; a mark says its figures on hover."""

from collections.abc import Sequence
from dataclasses import dataclass

from aquila.evaluate.markup import Markup, element, join

WIDTH = 812  # of the drawing's own units, one a pixel where there is room
_LABELS, _FIGURES = 165, 155  # left and right of bars
_BAR, _GAP = 16, 7
_CELLS_A_ROW = (20, 40, 60, 100)
MOST_CELLS = 4000  # above, a page is too large to be of use


@dataclass(frozen=True)
class Bar:
    """`value` of `scale`; `low` and `high` make a whisker; `text` stands behind it."""

    label: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Group:
    """Bars under one title."""

    title: str
    bars: Sequence[Bar]


def bar_chart(groups: Sequence[Group], *, title: str, kind: str = "share", scale: float = 1.0) -> Markup:
    """Horizontal bars from 0 to `scale`, with a ruler in quarters where they are shares."""
    room = WIDTH - _LABELS - _FIGURES
    top = 22 if kind == "share" else 4
    marks, y = [], top
    for group in groups:
        if group.title:
            marks.append(_text(0, y + 13, group.title, "group", limit=100))
            y += 22
        for bar in group.bars:
            marks += _bar(bar, y, room / (scale or 1.0), kind)
            y += _BAR + _GAP
        y += 8
    ruler = []
    if kind == "share":
        for quarter in range(5):
            x = _LABELS + room * quarter / 4
            ruler.append(element("line", class_="rule", x1=x, x2=x, y1=top - 4, y2=y - 8))
            ruler.append(_text(x, 11, f"{quarter * 25} %", "tick", anchor="middle"))
    return _drawing(join(*ruler, *marks), y, title)


def _bar(bar: Bar, y: float, unit: float, kind: str) -> list[Markup]:
    said = f"{bar.label}: {bar.text}"
    length = max(bar.value * unit, 1.5 if bar.value else 0)
    parts = [element("rect", class_=f"bar {kind}", x=_LABELS, y=y, width=length, height=_BAR, rx=2)]
    if bar.low is not None and bar.high is not None:
        low, high, middle = _LABELS + bar.low * unit, _LABELS + bar.high * unit, y + _BAR / 2
        ends = [
            (low, high, middle, middle),
            (low, low, middle - 5, middle + 5),
            (high, high, middle - 5, middle + 5),
        ]
        for name in ("halo", "whisker"):
            parts += [element("line", class_=name, x1=a, x2=b, y1=c, y2=d) for a, b, c, d in ends]
    label = _text(_LABELS - 8, y + 12, bar.label, "label", anchor="end", limit=21)
    figures = _text(WIDTH - _FIGURES + 10, y + 12, bar.text, "figure")
    return [element("g", element("title", said), label, *parts, figures)]


def heat_map(cells: Sequence[tuple[str, int, int]], *, title: str) -> Markup:
    """A cell a task, in reading order: the more of its samples passed, the fuller. Cells are (id, samples, passed)."""
    columns = next((count for count in _CELLS_A_ROW if len(cells) <= count * 12), _CELLS_A_ROW[-1])
    side = (WIDTH - 44) / columns
    height = min(side, 20)
    marks = []
    for index, (task_id, total, passed) in enumerate(cells):
        row, column = divmod(index, columns)
        x, y = 44 + column * side, row * height
        if column == 0:
            marks.append(_text(38, y + height / 2 + 4, task_id.rpartition("/")[2], "tick", anchor="end", limit=6))
        box = {"x": x + 1, "y": y + 1, "width": side - 2, "height": height - 2, "rx": min(2, height / 4)}
        share = passed / total
        parts = [element("rect", class_="empty", **box)]
        if passed:
            parts.append(element("rect", class_="full", fill_opacity=max(share, 0.12), **box))
        marks.append(element("g", element("title", f"{task_id}: {passed} of {total} passed"), *parts))
    rows = -(-len(cells) // columns)
    return _drawing(join(*marks), rows * height + 2, title)


def histogram(edges: Sequence[float], counts: Sequence[int], *, title: str, unit: str) -> Markup:
    """Columns, a bin each; empty ones at the end are left out."""
    last = max((index for index, count in enumerate(counts) if count), default=0)
    first = next((index for index, count in enumerate(counts) if count), 0)
    shown = range(first, last + 1)
    left, room, height = 44, 120, 156
    width = min((WIDTH - left - 20) / len(shown), 90)
    most = max(counts, default=0) or 1
    marks = [element("line", class_="rule", x1=left, x2=left + width * len(shown), y1=room + 14, y2=room + 14)]
    marks.append(_text(left - 6, 22, f"{most:,}", "tick", anchor="end"))
    marks.append(_text(left - 6, room + 14, "0", "tick", anchor="end"))
    every = -(-len(shown) // 16)
    for place, index in enumerate(shown):
        x, tall = left + place * width, room * counts[index] / most
        said = f"{edges[index]:g} to {edges[index + 1]:g} {unit}: {counts[index]:,}"
        column = element("rect", class_="bar column", x=x + 1, y=room + 14 - tall, width=width - 2, height=tall, rx=1)
        marks.append(element("g", element("title", said), column))
        if place % every == 0:
            marks.append(_text(x, room + 30, f"{edges[index]:g}", "tick", anchor="middle"))
    if len(shown) % every == 0:
        marks.append(_text(left + width * len(shown), room + 30, f"{edges[last + 1]:g}", "tick", anchor="middle"))
    return _drawing(join(*marks), height, title)


def _drawing(content: Markup, height: float, title: str) -> Markup:
    drawing = element(
        "svg",
        element("title", title),
        content,
        viewBox=f"0 0 {WIDTH} {height:.0f}",
        width=WIDTH,
        height=height,
        role="img",
        aria_label=title,
    )
    return element("div", drawing, class_="chart", tabindex="0", role="group", aria_label=title)


def _text(x: float, y: float, text: str, class_: str, *, anchor: str = "start", limit: int = 60) -> Markup:
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return element("text", shown, x=x, y=y, class_=class_, text_anchor=anchor)
