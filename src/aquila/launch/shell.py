"""How a command reaches a machine: as a child here, or through ssh, which must not ask anything."""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from aquila.launch.hostfile import Host

CONNECT_SECONDS = 10
# What of this environment a machine gets; never credentials.
_PASSED = re.compile(
    r"(NCCL|GLOO|UCX|FI|OMP|KMP|MKL|TORCH|CUDA|HIP|ROCR|ASCEND|XPU)_\w+|AQUILA_HOME|HF_HOME|HF_HUB_OFFLINE|TMPDIR"
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)


def passed_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The variables that travel to another machine: those of the allow-list, and `extra`, which the user names."""
    found = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name) and not _SECRET.search(name)}
    return {**found, **extra}


def start(
    host: Host, command: Sequence[str], *, folder: Path, environment: Mapping[str, str], merge_errors: bool = True
) -> subprocess.Popen[bytes]:
    """Starts `command` on `host` in `folder`. Its input and output are pipes; a signal to us does not reach it.

    Args:
        host: the machine.
        command: words, as for exec.
        folder: working directory, the same path on every machine.
        environment: variables to set there.
        merge_errors: stderr comes on stdout; otherwise it is a pipe of its own.
    """
    local = host.is_this_machine()
    return subprocess.Popen(
        command if local else ssh_command(host, command, folder, passed_environment(environment)),
        cwd=folder if local else None,
        env={**os.environ, **environment} if local else None,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merge_errors else subprocess.PIPE,
        start_new_session=True,
    )


def ssh_command(host: Host, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> list[str]:
    """The ssh call that runs `command` on another machine. It fails rather than ask for a password."""
    settings = [shlex.quote(f"{name}={value}") for name, value in environment.items()]
    line = f"cd {shlex.quote(str(folder))} && exec env {' '.join([*settings, *map(shlex.quote, command)])}"
    options = [
        "BatchMode=yes",
        f"ConnectTimeout={CONNECT_SECONDS}",
        "ServerAliveInterval=30",
        "ServerAliveCountMax=10",
    ]
    address = f"{host.user}@{host.name}" if host.user else host.name
    port = ["-p", str(host.port)] if host.port else []
    return ["ssh", *(word for option in options for word in ("-o", option)), *port, "--", address, line]
