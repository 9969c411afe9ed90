"""The installed `aquila` command in processes of its own, and a checkpoint for it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from parts import tiny_checkpoint

AQUILA = str(Path(sys.executable).with_name("aquila"))
Finished = subprocess.CompletedProcess[bytes]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native checkpoint with a context of 128 tokens."""
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def aquila_script() -> str:
    """Path of the installed command."""
    return AQUILA


@pytest.fixture
def aquila() -> Callable[..., Finished]:
    """Runs a command to its end. Never a traceback, and one line of error where the exit code is not 0."""

    def run(*arguments: str | bytes | Path, stdin: bytes = b"", exit_code: int = 0, **environment: str) -> Finished:
        done = subprocess.run(
            [AQUILA, *arguments], input=stdin, capture_output=True, check=False, env={**os.environ, **environment}
        )
        message = done.stderr.decode()
        assert done.returncode == exit_code, message
        assert "Traceback" not in message
        errors = [line for line in message.splitlines() if line.startswith("error: ")]
        assert len(errors) == (exit_code != 0)
        assert not errors or message.endswith(errors[0] + "\n")
        return done

    return run


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[bytes]]:
    """Starts a command whose stdout and stderr are pipes; the test ends it."""

    def begin(*arguments: str | Path, python: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        command = [sys.executable, *python, AQUILA, *arguments]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return begin
