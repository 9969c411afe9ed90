import threading

import pytest

from loopback import serve

REGISTRY = """
models:
  - name: toy
    kind: base
    preset: tiny
    num_parameters: 1000
    context_length: 256
    licence: {name: Toy Licence, url: "https://example.org/licence", note: For tests.}
    sources: {hf: toys/Toy, modelscope: toys/Toy}
    versions:
      - {version: v0.1, date: 2024-01-01, md5: MD5_1, changes: First.}
      - {version: v0.2, date: 2024-02-01, md5: MD5_2, changes: Second.}
"""


@pytest.fixture
def server():
    with serve() as loopback:
        yield loopback


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache of its own for each test, and no settings from outside."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("AQUILA_HOME", str(folder))
    for name in (
        "HF_ENDPOINT",
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "HF_HOME",
        "HF_HUB_CACHE",
        "MODELSCOPE_ENDPOINT",
    ):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def hold():
    """Keeps a server's second half back; released at the end in any case, so that the server can stop."""
    event = threading.Event()
    yield event
    event.set()
