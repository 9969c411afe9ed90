"""The frame of a page that stands alone: styles within it, nothing loaded from anywhere, nothing that runs."""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files

from aquila.evaluate.markup import Markup, element, join

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(title: str, *content: str) -> str:
    """A whole document."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(_style())),
    )
    body = element("body", element("main", element("h1", title), *content))
    return "<!DOCTYPE html>\n" + element("html", head, body, lang="en") + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = (), caption: str) -> Markup:
    """A table; columns `numbers` stand to the right."""

    def cell(tag: str, place: int, text: str, **more: str) -> Markup:
        return element(tag, text, class_="number" if place in numbers else None, **more)

    head = element("tr", *(cell("th", place, text, scope="col") for place, text in enumerate(header)))
    body = [element("tr", *(cell("td", place, text) for place, text in enumerate(row))) for row in rows]
    whole = element("table", element("caption", caption), element("thead", head), element("tbody", *body))
    return element("div", whole, class_="wide", tabindex="0", role="group", aria_label=caption)


def pairs(rows: Iterable[tuple[str, str]]) -> Markup:
    """Names and what they stand for."""
    return element("dl", *(join(element("dt", name), element("dd", value)) for name, value in rows))


def folded(summary: str, *content: str) -> Markup:
    return element("details", element("summary", summary), *content)


def prose(text: str) -> Markup:
    """Words, with what stands between backticks as code."""
    return join(*(code(part) if place % 2 else part for place, part in enumerate(text.split("`"))))


def code(text: str) -> Markup:
    return element("span", text, class_="code")


@cache
def _style() -> str:
    return (files("aquila.evaluate") / "page.css").read_text(encoding="utf-8")
