"""Starts a run on every machine, shows and keeps its output, and ends it everywhere when it ends anywhere.

Each machine runs launch/node.py, and that torchrun, whose agents meet on the head. Which machine a process belongs to
is told to it, never guessed from its interfaces. Lines come out as `[host:rank] text`.
"""

import json
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from aquila.errors import LaunchError
from aquila.launch.hostfile import Host
from aquila.launch.preflight import Plan
from aquila.launch.shell import start

EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: not an error, start it again to go on
SHUTDOWN_SECONDS = 600  # for the ranks to finish a step and save, before torchrun kills them
_NODE_MARK = "aquila-node "
_SIGNAL = -1  # in place of a node


@dataclass(frozen=True)
class Job:
    """What every machine runs, and how often a failed rank starts it again."""

    arguments: Sequence[str]  # after `python -m`, such as ["aquila", "train", RUN_DIR]
    port: int
    run_id: str
    max_restarts: int = 3
    environment: Mapping[str, str] | None = None


def command(plan: Plan, job: Job, node: int) -> list[str]:
    """The torchrun call of machine number `node`."""
    host, head = plan.hosts[node], "127.0.0.1" if plan.on_one_machine else plan.head.name
    endpoint = f"[{head}]:{job.port}" if ":" in head else f"{head}:{job.port}"
    options = {
        "--nnodes": len(plan.hosts),
        "--nproc-per-node": host.slots,
        "--node-rank": node,
        "--rdzv-backend": "c10d",
        "--rdzv-endpoint": endpoint,
        "--rdzv-conf": f"is_host={str(node == 0).lower()}",
        "--rdzv-id": job.run_id,
        "--local-addr": head if plan.on_one_machine else host.name,
        "--max-restarts": job.max_restarts,
        "--log-dir": plan.run_dir / "logs" / f"node-{node}",
        "--tee": 3,
    }
    words = [str(word) for pair in options.items() for word in pair]
    return [plan.python, "-m", "torch.distributed.run", *words, "-m", *job.arguments]


def environment(host: Host, cores: int, extra: Mapping[str, str]) -> dict[str, str]:
    """What the processes of a machine are told besides: their share of the cores, and how their lines begin."""
    return {
        "OMP_NUM_THREADS": str(max(1, min(16, cores // host.slots))),
        **extra,
        "PYTHONUNBUFFERED": "1",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": f"[{host.label}:${{rank}}] ",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN_SECONDS),
    }


class Launch:
    """One run on all machines of a plan.

    Args:
        plan: the machines.
        job: what they run.
        cores: CPU cores that each machine may use, as the preflight found them.
        log_file: gets every line.
        show: called with every line.
    """

    def __init__(self, plan: Plan, job: Job, cores: Sequence[int], log_file: Path, show: Callable[[str], None]) -> None:
        self._plan, self._job, self._cores, self._log_file, self._show = plan, job, cores, log_file, show
        # node, and a line or None at its end
        self._lines: queue.SimpleQueue[tuple[int, str | None]] = queue.SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pids: dict[str, int] = {}
        self._signals: list[int] = []
        self._obeyed = 0
        self._codes: dict[int, int] = {}

    def run(self) -> int:
        """Runs to the end. 0, or 75 when it was told to stop (130 by Ctrl-C).

        Raises:
            LaunchError: a machine failed; the others have been stopped.
        """
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = [signal.signal(number, self._on_signal) for number in numbers]
        try:
            with self._log_file.open("a", encoding="utf-8") as log:
                self._start()
                self._follow(log)
        finally:
            self._tell("kill")  # only where something has gone wrong here is anybody left
            for number, handler in zip(numbers, previous, strict=True):
                signal.signal(number, handler)
        if self._signals:
            return 128 + signal.SIGINT if self._signals[0] == signal.SIGINT else EXIT_STOPPED
        failed = {node: code for node, code in self._codes.items() if code}
        if failed:
            node, code = next(iter(failed.items()))
            lost = ": its ssh connection broke" if code == 255 else ""
            raise LaunchError(
                f"{self._plan.hosts[node].label} ended with exit code {code}{lost}; its last lines are in "
                f"{self._log_file}, and `aquila launch HOSTFILE {self._plan.run_dir}` goes on from the last checkpoint"
            )
        return 0

    def _start(self) -> None:
        for node, (host, cores) in enumerate(zip(self._plan.hosts, self._cores, strict=True)):
            words = [self._plan.python, "-m", "aquila.launch.node", *command(self._plan, self._job, node)]
            settings = environment(host, cores, self._job.environment or {})
            process = start(host, words, folder=self._plan.folder, environment=settings)
            self._processes.append(process)
            threading.Thread(target=self._read, args=(node, process), daemon=True).start()

    def _read(self, node: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for raw in process.stdout:
            self._lines.put((node, raw.decode(errors="replace").rstrip("\r\n")))
        self._codes[node] = process.wait()
        self._lines.put((node, None))

    def _follow(self, log: TextIO) -> None:
        """Passes lines on until every machine is done; says stop to all once one has failed or a signal came."""
        running = set(range(len(self._processes)))
        while running:
            node, line = self._lines.get()
            if node == _SIGNAL:
                self._obey_signals(log)
                continue
            label = self._plan.hosts[node].label
            if line is None:
                running.discard(node)
                if self._codes[node] and not self._signals and running:
                    self._keep(log, f"[{label}] ended with exit code {self._codes[node]}; stopping the others")
                    self._tell("stop")
            elif line.startswith(_NODE_MARK):
                self._remember(label, int(line.removeprefix(_NODE_MARK)))
            elif line.startswith(f"[{label}:"):
                self._keep(log, line)
            else:  # torchrun itself, which takes a stop for a crash
                self._keep(log, f"[{label}:agent] {line}", shown=not self._signals)

    def _obey_signals(self, log: TextIO) -> None:
        """The first signal is a polite request to all machines, any further one is not."""
        if self._obeyed == len(self._signals):
            return
        first, self._obeyed = self._obeyed == 0, len(self._signals)
        said = "stopping: every rank finishes its step and saves" if first else "ending every rank at once"
        self._keep(log, said)
        self._tell("stop" if first else "kill")

    def _keep(self, log: TextIO, line: str, *, shown: bool = True) -> None:
        log.write(line + "\n")
        log.flush()
        if shown:
            self._show(line)

    def _remember(self, label: str, pid: int) -> None:
        self._pids[label] = pid
        (self._plan.run_dir / "processes.json").write_text(json.dumps(self._pids) + "\n", encoding="utf-8")

    def _tell(self, word: str) -> None:
        for process in self._processes:
            assert process.stdin is not None
            if process.poll() is None:
                try:
                    process.stdin.write(word.encode() + b"\n")
                    process.stdin.flush()
                except OSError:  # it has ended meanwhile
                    continue

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        self._lines.put((_SIGNAL, ""))  # which a SimpleQueue allows in a signal handler
