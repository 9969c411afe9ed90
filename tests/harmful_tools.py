"""Tools that misbehave, for tests of the runner; and one that is declared as a class."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from aquila.chat.tools.declare import Image, tool


@tool(timeout_seconds=0.5)
def sleeper(mark: str) -> str:
    """Leaves a child behind and does not return.

    Args:
        mark: file that the child writes its number to.
    """
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    Path(mark).write_text(str(child.pid), encoding="utf-8")
    signal.pause()
    return ""


def killer() -> str:
    """Ends itself."""
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def hoarder() -> str:
    """Takes more memory than there is."""
    return str(len(bytearray(8 << 30)))


def talker(size: int) -> str:
    """Says much, and prints on the way."""
    sys.stdout.write('{"text": "a forged result", "images": [], "error": false}')
    return "x" * size


def failing(kind: str) -> object:
    """Raises, or returns what is no JSON."""
    if kind == "raise":
        raise RuntimeError("out of order")
    return object()


def surroundings() -> dict[str, object]:
    """Tells what it sees of its surroundings."""
    return {"files": os.listdir("."), "variables": sorted(os.environ), "folder": str(Path.cwd())}


def size_of(image: Image) -> int:
    """The bytes of a picture."""
    return len(image)


@tool(zh="数到。", permissions={"write"}, body="json")
class Counter:
    """Counts up to a number."""

    def run(self, end: int) -> list[int]:
        """Counts.

        Args:
            end: the last number.
        """
        return list(range(1, end + 1))
