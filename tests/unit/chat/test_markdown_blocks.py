"""Blocks of streamed Markdown: split where they cannot change any more, the same for every chunking."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.chat.markdown_blocks import MarkdownBlocks

DOCUMENTS = {
    "paragraphs": ["one\ntwo\n\n", "three\n\n\n", "four"],
    "fence": ["look:\n\n", "```python\nx = 1\n\n\ny = 2\n```\n", "done"],
    "text runs into a fence": ["look:\n```\nx\n\ny\n```\n", "done"],
    "longer fence around a shorter one": ["````md\n```\na\n\nb\n```\n````\n", "end"],
    "tilde fence": ["~~~\n```\n\n~~~\n", "end"],
    "list items with paragraphs and code": [
        "1. a\n\n   more\n\n   ```\n   x\n\n   y\n   ```\n\n",
        "2. b\n\n",
        "end",
    ],
    "table": ["| a | b |\n|---|---|\n| 1 | 2 |\n\n", "end"],
    "open fence": ["```\nx\n\ny\n"],
}


def split(chunks: list[str]) -> list[str]:
    blocks = MarkdownBlocks()
    finished = [block for chunk in chunks for block in blocks.push(chunk)]
    return [*finished, blocks.open]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_blocks(name: str):
    assert split(["".join(DOCUMENTS[name])]) == DOCUMENTS[name]


@given(
    text=st.lists(st.sampled_from(["a", "\n", "\n\n", "```", "```py\n", "- b", "  c", "~~~", " "])).map("".join),
    cuts=st.lists(st.integers(0, 40)),
)
def test_chunking_changes_nothing(text: str, cuts: list[int]):
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    chunks = [text[start:end] for start, end in pairwise(places)]
    assert split(chunks) == split([text])
    assert "".join(split(chunks)) == text
