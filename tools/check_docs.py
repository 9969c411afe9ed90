"""Checks that the pages tell the truth: `python tools/check_docs.py [ROOT]` exits 1 with one line a fault.

- every repository path that a page names, in a link or in backticks, exists;
- every `aquila COMMAND` and `make TARGET` that a page shows exists;
- README.md and README_zh.md have the same headings, code blocks and commands;
- the first version in CHANGELOG.md is the version of the package.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from aquila.cli.app import command_names

PACKAGE = "src/aquila"
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE_SPAN = re.compile(r"`([^`\n]+)`")
CODE_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) ", re.MULTILINE)
PATH = re.compile(r"[\w.*-]+(?:/[\w.*-]+)*/?")
COMMAND = re.compile(r"(?:\$ )?(aquila|make) ([a-z][a-z-]*)")


def check(root: Path) -> Iterator[str]:
    """One line a fault: page, what is wrong, what to do."""
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    known = {"aquila": {name.split()[0] for name in command_names()}, "make": targets}
    for page in [*sorted(root.glob("*.md")), *sorted(root.glob("docs/**/*.md"))]:
        name, text = page.relative_to(root), page.read_text(encoding="utf-8")
        prose = CODE_BLOCK.sub("", text)
        for path in _missing_paths(root, page, prose):
            yield f"{name}: names {path}, which does not exist; correct the path or remove it"
        for program, word in _commands(text):
            if word not in known[program]:
                names = ", ".join(sorted(known[program]))
                yield f"{name}: shows `{program} {word}`, which does not exist; known: {names}"
    yield from _differences(root / "README.md", root / "README_zh.md")
    yield from _version_fault(root)


def _missing_paths(root: Path, page: Path, prose: str) -> Iterator[str]:
    for target in LINK.findall(prose):
        path = target.partition("#")[0]
        if path and "://" not in path and not path.startswith("mailto:") and not (page.parent / path).exists():
            yield target
    for span in CODE_SPAN.findall(prose):
        if _is_repository_path(root, span) and not any(_matches(folder, span) for folder in (root, root / PACKAGE)):
            yield span


def _is_repository_path(root: Path, span: str) -> bool:
    """`model/rope.py`, `tests/`, `presets/*.yaml`, `rope.py`; but not `config.json` or `and/or`."""
    if not PATH.fullmatch(span):
        return False
    first, slash, _ = span.partition("/")
    if not slash:
        return span.endswith((".py", ".md")) and not span.startswith(("*", "."))
    return (root / first).is_dir() or (root / PACKAGE / first).is_dir()


def _matches(folder: Path, span: str) -> bool:
    pattern = span.rstrip("/") if "/" in span else f"**/{span}"
    skipped = {".venv", "build", "dist", ".git"}
    return any(not skipped & set(path.relative_to(folder).parts) for path in folder.glob(pattern))


def _commands(text: str) -> Iterator[tuple[str, str]]:
    blocks = [line.strip() for _, block in CODE_BLOCK.findall(text) for line in block.splitlines()]
    for line in (*blocks, *CODE_SPAN.findall(CODE_BLOCK.sub("", text))):
        if match := COMMAND.match(line):
            yield match[1], match[2]


def _differences(english: Path, chinese: Path) -> Iterator[str]:
    if not chinese.exists():
        yield f"{chinese.name}: does not exist; translate {english.name}"
        return
    pages = [path.read_text(encoding="utf-8") for path in (english, chinese)]
    headings, languages, commands = (
        [extract(page) for page in pages] for extract in (_headings, _languages, lambda page: list(_commands(page)))
    )
    for what, (first, second) in {
        "heading levels": headings,
        "code blocks": languages,
        "commands": commands,
    }.items():
        if first != second:
            yield f"{chinese.name}: {what} differ from {english.name}: {second} instead of {first}"


def _headings(page: str) -> list[int]:
    return [len(marks) for marks in HEADING.findall(CODE_BLOCK.sub("", page))]


def _languages(page: str) -> list[str]:
    return [language for language, _ in CODE_BLOCK.findall(page)]


def _version_fault(root: Path) -> Iterator[str]:
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    package = (root / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    noted = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    version = re.search(r'^__version__ = "(.+)"', package, re.MULTILINE)
    if not noted or not version or noted[1] != version[1]:
        yield f"CHANGELOG.md: begins with {noted and noted[1]}, but the package is {version and version[1]}"


if __name__ == "__main__":
    checkout = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    sys.exit("\n".join(check(checkout)) or 0)
