"""HTML and SVG put together so that text cannot become markup: whatever is not `Markup` is escaped."""

import html
import unicodedata

_VOID = frozenset({"meta", "br", "rect", "line", "path", "circle"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element. `class_` and `for_` lose the underscore at their end, others get hyphens; None leaves one out."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID and not children:
        return Markup(f"<{tag}{given}>" if tag in ("meta", "br") else f"<{tag}{given}/>")
    return Markup(f"<{tag}{given}>{join(*children)}</{tag}>")


def join(*parts: str) -> Markup:
    return Markup("".join(part if isinstance(part, Markup) else html.escape(clean(part)) for part in parts))


def clean(text: str) -> str:
    """`text` in one piece: no control characters, none that turn the direction of writing, no half surrogates."""
    if text.isascii() and text.isprintable():
        return text
    kept = (" " if each in "\t\r\n" else "�" if _steers(each) else each for each in text)
    return "".join(kept)


def number(value: float) -> str:
    """At most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _steers(character: str) -> bool:
    return (
        unicodedata.category(character) in ("Cc", "Cs")
        or 0x202A <= ord(character) <= 0x202E
        or (0x2066 <= ord(character) <= 0x2069)
    )


def _attribute(value: str | float) -> str:
    return html.escape(clean(value), quote=True) if isinstance(value, str) else number(value)
