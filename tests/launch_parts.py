"""Other machines that are really this one: an `ssh` on PATH that runs commands here, Pythons that lack something."""

import os
import stat
import sys
from pathlib import Path

import pytest

_SSH = """#!/bin/sh
# An ssh without a network. Its exit codes and messages are those of OpenSSH.
echo "$*" >> "$(dirname "$0")/calls"
while [ $# -gt 0 ]; do
    case "$1" in
        -o|-p) shift 2 ;;
        --) shift; break ;;
        *) break ;;
    esac
done
host=$1; shift
case "$host" in
    refused*) echo "ssh: connect to host $host port 22: Connection refused" >&2; exit 255 ;;
    denied*) echo "me@$host: Permission denied (publickey,password)." >&2; exit 255 ;;
    stranger*) echo "Host key verification failed." >&2; exit 255 ;;
    nowhere*) echo "ssh: Could not resolve hostname $host: Name or service not known" >&2; exit 255 ;;
    silent*) echo "ssh: connect to host $host port 22: Connection timed out" >&2; exit 255 ;;
esac
exec sh -c "$*"
"""


def script(path: Path, text: str) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def local_ssh(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts an `ssh` first on PATH that runs what it is told on this machine; returns its record of calls."""
    script(folder / "ssh", _SSH)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "calls"


def python_with(folder: Path, **modules: str) -> str:
    """A Python that finds only these modules beside its own, each with the given text."""
    for name, text in modules.items():
        script(folder / "modules" / f"{name}.py", text)
    return str(script(folder / "python", f'#!/bin/sh\nPYTHONPATH={folder}/modules exec {sys.executable} -S "$@"\n'))
