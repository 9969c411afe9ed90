"""What every test stands on: fixed seeds, one thread a worker, no network, a home of its own."""

import ipaddress
import logging
import os
import random
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: workers share the cores
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A shell without job control starts what it puts behind with SIGINT ignored, and what tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("aquila", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("aquila")

_connect = socket.socket.connect


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _connect_on_loopback(self: socket.socket, address: Any) -> None:
    if isinstance(address, tuple) and not _is_local(address[0]):
        raise OSError(f"tests have no network: connection to {address[0]}:{address[1]} refused; serve it on loopback")
    _connect(self, address)


@pytest.fixture(autouse=True)
def isolation(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home, a cache and a random state of its own for every test, and no way out to the network."""
    for handler in logging.root.handlers[:]:  # of a command that ran in this process: its stream is closed
        if type(handler) is logging.StreamHandler:
            logging.root.removeHandler(handler)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AQUILA_HOME", str(home / "aquila"))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(socket.socket, "connect", _connect_on_loopback)
    random.seed(0)
    _seed_loaded_libraries()


def _seed_loaded_libraries() -> None:
    """Seeds numpy and torch in the tests that have loaded them, without loading them for the others."""
    import sys

    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[1]
