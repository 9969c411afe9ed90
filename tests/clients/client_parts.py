"""What the tests of real clients share: where the clients are installed, how one is run without a network."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INSTALLED = HERE.parents[1] / "build" / "clients"
MODEL = "smollm2-135m"
SECONDS = 240
UNREACHABLE = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Server:
    """A server process: its address, and the file that it logs to."""

    url: str
    log: Path

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"


def program(name: str, folder: str = "venv/bin") -> Path:
    """An installed client's program; skips the test where install.sh could not install it."""
    path = INSTALLED / folder / name
    if not path.exists():
        pytest.skip(f"there is no {path}: tests/clients/install.sh installs it")
    return path


def python(*modules: str, folder: str = "venv") -> Path:
    """The Python that has all the modules; skips the test where it has not."""
    path = program("python", f"{folder}/bin")
    script = f"import importlib.util as u, sys; sys.exit(any(not u.find_spec(m) for m in {modules!r}))"
    if subprocess.run([path, "-c", script], check=False).returncode:
        pytest.skip(f"{path} has not all of {', '.join(modules)}: tests/clients/install.sh installs them")
    return path


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Variables of a client with a home of its own, that reaches loopback alone."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), UNREACHABLE)
    direct = dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
    return {**kept, **proxies, **direct, "HOME": str(home), "HF_HUB_OFFLINE": "1", **variables}


def run(*command: str | Path, home: Path, cwd: Path | None = None, text: str | None = None, **variables: str) -> str:
    """What the client prints; fails the test with all it said where it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        env=environment(home, **variables),
        cwd=cwd or home,
        input=text or "",
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    said = f"{done.stdout[-6000:]}\n--- stderr\n{done.stderr[-6000:]}"
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{said}"
    return done.stdout
