"""What is run in a sandbox, within which limits, and what came of it."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

MIB = 1 << 20
Status = Literal["exited", "timeout", "memory", "disk", "output_limit", "cancelled", "tampered"]


@dataclass(frozen=True)
class Limits:
    """Of one step. Memory is the data segment of each process (RLIMIT_DATA), and what all processes hold together.

    RLIMIT_DATA and not RLIMIT_AS: Java, Go and Node reserve gigabytes of addresses just to start.
    """

    wall_seconds: float = 10.0
    memory_bytes: int = 512 * MIB
    total_memory_bytes: int = 0  # 0: one and a half times `memory_bytes`
    max_processes: int = 64  # threads count
    max_files: int = 256
    file_bytes: int = 64 * MIB
    output_bytes: int = 256 << 10  # of stdout and of stderr

    def to_json(self) -> dict[str, Any]:
        return {
            "wall_seconds": self.wall_seconds,
            "cpu_seconds": math.ceil(self.wall_seconds) + 2,
            "memory_bytes": self.memory_bytes,
            "total_memory_bytes": self.total_memory_bytes or self.memory_bytes * 3 // 2,
            "max_processes": self.max_processes,
            "max_files": self.max_files,
            "file_bytes": self.file_bytes,
        }

    def within(self, wall_seconds: float) -> "Limits":
        return replace(self, wall_seconds=wall_seconds)


@dataclass(frozen=True)
class Step:
    """A program, found in PATH or by its path inside the sandbox. `{tmp}` in its environment is the job's own /tmp."""

    argv: Sequence[str]
    limits: Limits = Limits()
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    interactive: bool = False  # stdin stays open for `Running.ask`; for the last step

    def to_json(self) -> dict[str, Any]:
        return {"argv": list(self.argv), "environment": dict(self.environment), "limits": self.limits.to_json()}


@dataclass(frozen=True)
class PythonStep:
    """Python source in a fork of an interpreter that is up already: `calls` or `program` of inside/worker.py."""

    source: str
    entry_point: str | None  # answers calls of this function; None: runs the source as a program
    limits: Limits = Limits()
    stdin: bytes = b""

    @property
    def interactive(self) -> bool:
        return self.entry_point is not None

    def to_json(self) -> dict[str, Any]:
        kind = "program" if self.entry_point is None else "calls"
        worker = {"kind": kind, "source": self.source, "entry_point": self.entry_point}
        return {"worker": worker, "environment": {}, "limits": self.limits.to_json()}


@dataclass(frozen=True)
class Job:
    """Steps that share a work folder and nothing else. One that does not end with code 0 is the last one.

    Attributes:
        files: written to the work folder first; executable.
        disk_bytes: of the work folder, /tmp and /dev/shm together. With namespaces it cannot be exceeded; without,
            a job that has is ended.
        max_inodes: files and folders in them.
    """

    steps: Sequence[Step | PythonStep]
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    disk_bytes: int = 64 * MIB
    max_inodes: int = 16384

    def to_json(self) -> bytes:
        files = {
            name: content if isinstance(content, str) else {"base64": base64.b64encode(content).decode()}
            for name, content in self.files.items()
        }
        steps = [step.to_json() for step in self.steps]
        order = {"files": files, "steps": steps, "disk_bytes": self.disk_bytes, "max_inodes": self.max_inodes}
        return json.dumps(order).encode()


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        status: `exited` by itself; `timeout`; `memory`, of all processes together; `disk`; `output_limit`; `cancelled`;
            `tampered`: it broke the process that watches it, and that ended the job.
        code: exit code, or the negative number of the signal that killed it.
        peak_bytes: resident memory of the largest process.
    """

    status: Status
    code: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def ok(self) -> bool:
        return self.status == "exited" and self.code == 0
