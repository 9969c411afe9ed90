"""Who stands beside us, and with which interpreter: a peer has an environment of its own, or is left out."""

import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """`module` of this package runs the peer under an interpreter that can import `package`."""

    package: str
    module: str
    option: str
    variable: str
    install: str


PEERS = {
    "llama.cpp": Peer(
        package="llama_cpp",
        module="llama_cpp_side",
        option="--llama-python",
        variable="AQUILA_BENCH_LLAMA_PYTHON",
        install="CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36",
    ),
    "ctranslate2": Peer(
        package="ctranslate2",
        module="ctranslate2_side",
        option="--ctranslate2-python",
        variable="AQUILA_BENCH_CTRANSLATE2_PYTHON",
        install="pip install ctranslate2==4.8.5 numpy",
    ),
}


def add_options(parser: ArgumentParser, names: list[str]) -> None:
    for name in names:
        peer = PEERS[name]
        parser.add_argument(
            peer.option,
            metavar="PYTHON",
            default=os.environ.get(peer.variable, sys.executable),
            help=f"interpreter that has {name} (${peer.variable}, else this one); install: {peer.install}",
        )


def find_peers(options: Namespace, names: list[str]) -> dict[str, str]:
    """The peers that can run -> their interpreters. Says in a line which are missing."""
    found = {}
    for name in names:
        peer = PEERS[name]
        python = getattr(options, peer.option.removeprefix("--").replace("-", "_"))
        try:
            code = subprocess.run([python, "-c", f"import {peer.package}"], capture_output=True, check=False).returncode
        except OSError:
            code = None
        if code == 0:
            found[name] = python
        else:
            print(f"{name} is left out: {python} cannot import {peer.package}; give {peer.option} or {peer.variable}")
    return found
