"""A model behind an address for as long as something is measured."""

import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from aquila.errors import GenerationError


@contextmanager
def served_model(model: str, options: Sequence[str] = ()) -> Generator[str, None, None]:
    """Runs `aquila serve MODEL` on a free port in a process of its own, and gives its address.

    Raises:
        GenerationError: it did not start; the message is what it said last.
    """
    command = [sys.executable, "-m", "aquila", "serve", model, "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, encoding="utf-8")
    assert process.stderr is not None, "it is a pipe"
    try:
        said = ""
        for line in process.stderr:
            said = line.strip() or said
            if line.startswith("ready"):
                yield line.split()[-1]
                return
        process.wait()
        raise GenerationError(f"serving {model} failed: {said.removeprefix('error: ') or process.returncode}")
    finally:
        process.terminate()
        process.communicate()
