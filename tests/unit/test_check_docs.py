"""The check on the pages finds what it promises to find, and passes what is right."""

import subprocess
import sys
from pathlib import Path

import pytest

README = """\
# Aquila

See [the map](docs/map.md#layers), `src/aquila/cli/`, `cli/*.py`, `config.json` and `and/or`; run `make test`.

```bash
aquila doctor --json   # what fits
```
"""


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A small checkout whose pages are all true."""
    texts = {
        "README.md": README,
        "README_zh.md": README.replace("See", "参见"),
        "CHANGELOG.md": "# Changelog\n\n## 1.2.3\n",
        "Makefile": "test: setup ## run the tests\n",
        "docs/map.md": "One file: `doctor.py`. Up: [front](../README.md), [web](https://example.org).\n",
        "src/aquila/__init__.py": '__version__ = "1.2.3"\n',
        "src/aquila/cli/doctor.py": "",
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def faults(pages: Path, root: Path) -> list[str]:
    command = [sys.executable, str(root / "tools" / "check_docs.py"), str(pages)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    assert run.returncode == bool(run.stderr)
    return run.stderr.splitlines()


def append(page: Path, text: str) -> None:
    page.write_text(page.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_true_pages_pass(pages: Path, root: Path) -> None:
    assert faults(pages, root) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("`cli/gone.py`\n", "docs/map.md: names cli/gone.py, which does not exist"),
        ("`gone.py`\n", "docs/map.md: names gone.py, which does not exist"),
        ("[here](gone/page.md)\n", "docs/map.md: names gone/page.md, which does not exist"),
        ("`aquila fly`\n", "docs/map.md: shows `aquila fly`, which does not exist"),
        ("```\n$ make coffee\n```\n", "docs/map.md: shows `make coffee`, which does not exist; known: test"),
    ],
)
def test_a_false_line_is_found(pages: Path, root: Path, text: str, fault: str) -> None:
    append(pages / "docs" / "map.md", text)
    (found,) = faults(pages, root)
    assert found.startswith(fault)


def test_readmes_that_drift_apart_are_found(pages: Path, root: Path) -> None:
    append(pages / "README.md", "\n## News\n\n```python\nimport aquila\n```\n")
    found = " ".join(faults(pages, root))
    assert "heading levels differ" in found
    assert "code blocks differ" in found


def test_a_missing_translation_is_found(pages: Path, root: Path) -> None:
    (pages / "README_zh.md").unlink()
    assert faults(pages, root) == ["README_zh.md: does not exist; translate README.md"]


def test_a_changelog_behind_the_package_is_found(pages: Path, root: Path) -> None:
    (pages / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.2\n", encoding="utf-8")
    assert faults(pages, root) == ["CHANGELOG.md: begins with 1.2.2, but the package is 1.2.3"]
