"""Whole training runs in processes that can be killed: a tiny recipe on disk, and ranks that are forked warm.

Importing torch takes seconds, forking a process that has it takes milliseconds. A rank stands where torchrun would
have put it: its place is in the environment, its end is an exit code or a signal.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aquila.data.shards import write_shard
from parts import CORPUS, tiny_tokenizer

STEPS = 8
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["warm_rank"])


def tiny_run(folder: Path, **changes: Any) -> Path:
    """A folder with a recipe for 8 steps of 4 sequences, saved every second step, and the data beside it."""
    folder.mkdir(parents=True)
    tokenizer = tiny_tokenizer()
    tokenizer.save(folder / "tokenizer")
    with write_shard(folder / "corpus", np.dtype("<u2")) as writer:
        for start in range(0, len(CORPUS), 300):
            writer.add([*tokenizer.encode(CORPUS[start : start + 300]), *tokenizer.eos_token_ids])
    recipe: dict[str, Any] = {
        "stage": "pretrain",
        "model": {
            "vocab_size": tokenizer.vocab_size,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
        },
        "tokenizer": str(folder / "tokenizer"),
        "data": {"path": str(folder / "corpus"), "sequence_length": 16},
        "train": {"steps": STEPS, "global_batch_size": 4, "lr": 0.01},
        "save": {"save_interval": 2, "keep_last": 2},
        "eval": {"eval_interval": 0},
        "log": {"log_interval": 1},
        "run_dir": str(folder),
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        recipe[section] = {**recipe[section], key: value} if key else value
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    return folder


@dataclass(frozen=True)
class Fault:
    """A rank kills itself, by SIGKILL, when it is about to do something to a path.

    `event` is one of Python's audit events (`open`, `os.rename`, `shutil.rmtree`); `path` a part of the path.
    """

    rank: int
    event: str
    path: str


class Ranks:
    """Processes that train together in `run_dir`."""

    def __init__(self, run_dir: Path, world: int, fault: Fault | None = None, *, as_command: bool = False) -> None:
        self.run_dir = run_dir
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.processes = [
            _FORKS.Process(target=_train, args=(rank, world, port, run_dir, fault, as_command)) for rank in range(world)
        ]
        _start_fork_server()
        for process in self.processes:
            process.start()

    def wait_until(self, seen: Callable[[], bool]) -> None:
        """Until something can be seen from outside, or a rank has ended."""
        while not seen() and all(process.exitcode is None for process in self.processes):
            self.processes[0].join(0.002)

    def signal(self, rank: int, number: signal.Signals) -> None:
        process = self.processes[rank]
        if process.pid is not None and process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and the fork server has taken note first
                os.kill(process.pid, number)

    def end(self) -> list[int]:
        """Waits for the first to fail or for all to finish; whoever is left is killed, as torchrun does. Exit codes."""
        while any(process.exitcode is None for process in self.processes):
            if any(process.exitcode not in (None, 0, 75) for process in self.processes):
                for rank in range(len(self.processes)):
                    self.signal(rank, signal.SIGKILL)
            for process in self.processes:
                process.join(0.01)
        return [process.exitcode or 0 for process in self.processes]


def _start_fork_server() -> None:
    """Once; it does not have this process's path, so it would not find warm_rank.py by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        forkserver.ensure_running()


def train(run_dir: Path, world: int, fault: Fault | None = None, *, as_command: bool = False) -> list[int]:
    """Trains to the end, or to the fault.

    As `aquila train` does, rank 0 then speaks for all and draws the loss, which takes its time; else each for itself.
    """
    return Ranks(run_dir, world, fault, as_command=as_command).end()


def _train(rank: int, world: int, port: int, run_dir: Path, fault: Fault | None, as_command: bool) -> None:
    output = os.open(run_dir / f"rank-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if fault is not None and rank == fault.rank:
        sys.addaudithook(lambda event, arguments: _die_at(fault, event, arguments))
    from aquila.cli import train_run
    from aquila.errors import AquilaError
    from aquila.log import setup_logging
    from aquila.train.run_dir import open_recipe
    from aquila.train.start import run_recipe

    setup_logging()
    try:
        recipe = open_recipe(run_dir, [])
        code = train_run.train(*recipe) if as_command else run_recipe(*recipe).exit_code
    except AquilaError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201
        code = error.exit_code
    sys.stdout.flush()
    os._exit(code)


def _die_at(fault: Fault, event: str, arguments: Sequence[Any]) -> None:
    if event == fault.event and fault.path in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)


def losses(run_dir: Path) -> list[tuple[int, int, str, str]]:
    """The log of a run as its bits: step, tokens so far, loss and gradient norm in hexadecimal."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [
        (line["step"], line["num_tokens"], float(line["loss"]).hex(), float(line["grad_norm"]).hex()) for line in found
    ]


def has_step(run_dir: Path, step: int) -> bool:
    """Whether the log has come to a step."""
    file = run_dir / "metrics.jsonl"
    return file.exists() and f'{{"step": {step},' in file.read_text(encoding="utf-8")
