"""The plug-in of docs/tools.md, installed as a package and run by the command line."""

import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aquila.chat.tools.registry import tool_names
from aquila.cli.tools import app


def test_the_page_s_plug_in_works_as_written(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (root / "docs/tools.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (entry,) = re.findall(r"```toml\n\[project\.entry-points\.\"(.*?)\"\]\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_tools.py").write_text(code, encoding="utf-8")
    info = tmp_path / "my_tools-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-tools\nVersion: 1\n", encoding="utf-8")
    lines = entry[1].replace('"', "")
    (info / "entry_points.txt").write_text(f"[{entry[0]}]\n{lines}", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert tool_names()["count_words"] == "plug-in: my_tools:count_words"
        result = CliRunner().invoke(app, ["run", "count_words", "one two three"], catch_exceptions=False)
        assert result.stdout == "3 words\n"
        with_more = '{"text": "one three", "longest": true}'
        result = CliRunner().invoke(app, ["run", "count_words", with_more], catch_exceptions=False)
        assert result.stdout == "2 words, longest: three\n"
    finally:
        sys.modules.pop("my_tools", None)
