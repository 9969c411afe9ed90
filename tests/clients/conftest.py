"""One server process on real weights for all the clients, and one that fills in the middle for editors."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_parts import MODEL, Server

from parts import tiny_checkpoint


def _start(log: Path, model: str, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    command = [sys.executable, "-m", "aquila", "serve", model, "--port", "0", *options]
    with log.open("wb") as stderr:
        variables = {**os.environ, "OMP_NUM_THREADS": "2"}
        process = subprocess.Popen(command, stderr=stderr, stdout=stderr, env=variables)
    while process.poll() is None:
        found = re.search(r"ready +(http://\S+)", log.read_text(encoding="utf-8"))
        if found:
            return process, found[1]
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(f"the server ended: {log.read_text(encoding='utf-8')}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not _is_pulled():
        pytest.skip(f"{MODEL} is not pulled (aquila pull {MODEL})")
    yield from _serve(tmp_path_factory.mktemp("server") / "log", MODEL)


@pytest.fixture(scope="session")
def fim_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that fills in the middle: its form is real, its few weights are random, and so is what it writes."""
    return tiny_checkpoint(tmp_path_factory.mktemp("fim") / "tiny", max_position_embeddings=1024)


@pytest.fixture(scope="session")
def fim_server(fim_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _serve(tmp_path_factory.mktemp("fim-server") / "log", str(fim_model))


def _serve(log: Path, model: str) -> Iterator[Server]:
    process, url = _start(log, model)
    yield Server(url, log)
    process.terminate()
    assert process.wait(60) == 0, log.read_text(encoding="utf-8")


def _is_pulled() -> bool:
    cache = Path(os.environ.get("AQUILA_HOME") or "~/.cache/aquila").expanduser()
    return (cache / "models" / MODEL / "aquila.json").exists()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A client's home."""
    made = tmp_path / "home"
    made.mkdir()
    return made
