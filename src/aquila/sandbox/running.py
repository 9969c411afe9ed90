"""A job that runs: its pipes, its limits on output, and what it reports."""

import json
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aquila.errors import SandboxError
from aquila.sandbox.job import Job, Outcome, PythonStep, Step

_PIPE_BYTES = 1 << 16
_PIPED_STDIN = 1 << 12  # surely fits a pipe
_GRACE_SECONDS = 10.0  # the sandbox keeps time itself; past this, it does not


class CallTimeoutError(Exception):
    """No answer within the time for one."""


class OutputLimitError(Exception):
    """More output than the limit allows."""


@dataclass(eq=False)
class _Stream:
    """What has come from a step on stdout or stderr."""

    descriptor: int
    cap: int
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False

    @property
    def over(self) -> bool:
        return len(self.data) > self.cap

    def read(self) -> None:
        part = os.read(self.descriptor, _PIPE_BYTES)
        self.data += part
        self.ended = not part


class Running:
    """The host's side of a job.

    Args:
        on_end: called once when the job has reported for the last time; waits until the sandbox is free again.
    """

    def __init__(self, job: Job, control: socket.socket, on_end: Callable[[], None]) -> None:
        self._job = job
        self._on_end = on_end
        self._deadline = time.monotonic() + sum(step.limits.wall_seconds for step in job.steps) + _GRACE_SECONDS
        self._outputs: list[tuple[_Stream, _Stream]] = []
        self._streams: dict[int, _Stream] = {}
        self._writer = -1  # stdin of the last step, where that answers calls
        self._leash = self._report = -1
        self._report_text = bytearray()
        self._ended = False
        self._poller = select.poll()
        self._send(job, control)

    def ask(self, line: bytes, seconds: float, max_bytes: int) -> bytes:
        """Sends a line (or nothing) to the last step, and gives the next line that it writes on stdout.

        Raises:
            CallTimeoutError: none came in time.
            EOFError: the step ended.
            OutputLimitError: the line is longer than `max_bytes`, or stderr went past the step's limit.
        """
        deadline = time.monotonic() + seconds
        stdout, stderr = self._outputs[-1]
        stdout.cap = max_bytes
        unsent = memoryview(line)
        while (end := stdout.data.find(b"\n")) < 0 or unsent:
            if unsent:
                unsent = self._write(unsent)
            if stdout.over or stderr.over:
                raise OutputLimitError
            if stdout.ended or self._ended:
                raise EOFError
            left = deadline - time.monotonic()
            if left <= 0:
                raise CallTimeoutError
            self._turn(min(left, 0.01) if unsent else left)
        if end > max_bytes:  # it came in one piece
            self.cancel()
            raise OutputLimitError
        found = bytes(stdout.data[:end])
        del stdout.data[: end + 1]
        return found

    def cancel(self) -> None:
        """Has the sandbox end what still runs."""
        if self._leash >= 0:
            os.close(self._leash)
            self._leash = -1

    def finish(self) -> list[Outcome]:
        """Waits for the end. One outcome for each step that was started.

        Raises:
            SandboxError: the sandbox failed; this says nothing about the job.
        """
        try:
            if self._writer >= 0:
                os.close(self._writer)
                self._writer = -1
            while not self._ended and (left := self._deadline - time.monotonic()) > -_GRACE_SECONDS:
                if left <= 0:
                    self.cancel()
                self._turn(max(left, 0.1))
            self._drain()
        finally:
            self._close()
            self._on_end()
        return self._outcomes()

    def _send(self, job: Job, control: socket.socket) -> None:
        theirs: list[int] = []
        try:
            theirs.append(_sealed(job.to_json()))
            leash, self._leash = os.pipe()
            self._report, report = os.pipe()
            theirs += [leash, report]
            for step in job.steps:
                theirs += self._open_streams(step)
            self._poller.register(self._report, select.POLLIN)
            socket.send_fds(control, [b"job"], theirs)
        except OSError as error:
            self._close()
            raise SandboxError(f"a job could not be handed over: {error}") from None
        finally:
            for descriptor in theirs:
                os.close(descriptor)

    def _open_streams(self, step: Step | PythonStep) -> list[int]:
        if step.interactive or len(step.stdin) <= _PIPED_STDIN:
            stdin, writer = os.pipe()
            os.write(writer, step.stdin)
            if step.interactive:
                os.set_blocking(writer, False)
                self._writer = writer
            else:
                os.close(writer)
        else:
            stdin = _sealed(step.stdin)
        theirs, outputs = [stdin], []
        for _ in range(2):
            reader, writer = os.pipe()
            stream = _Stream(reader, step.limits.output_bytes)
            self._streams[reader] = stream
            self._poller.register(reader, select.POLLIN)
            outputs.append(stream)
            theirs.append(writer)
        self._outputs.append((outputs[0], outputs[1]))
        return theirs

    def _write(self, unsent: memoryview) -> memoryview:
        try:
            return unsent[os.write(self._writer, unsent) :]
        except BlockingIOError:
            return unsent
        except BrokenPipeError:
            raise EOFError from None

    def _turn(self, seconds: float) -> None:
        """Waits for something to happen and takes it in."""
        for descriptor, _ in self._poller.poll(seconds * 1000):
            if descriptor == self._report:
                part = os.read(descriptor, _PIPE_BYTES)
                self._report_text += part
                self._ended = not part
                continue
            stream = self._streams[descriptor]
            stream.read()
            if stream.ended or stream.over:
                self._poller.unregister(descriptor)
            if stream.over:
                self.cancel()

    def _drain(self) -> None:
        """Takes what lies in the pipes; nobody writes to them any more."""
        for stream in self._streams.values():
            os.set_blocking(stream.descriptor, False)
            while not stream.ended and not stream.over:
                try:
                    stream.read()
                except BlockingIOError:
                    break

    def _close(self) -> None:
        self.cancel()
        for descriptor in (*self._streams, self._report, self._writer):
            if descriptor >= 0:
                os.close(descriptor)
        self._streams.clear()
        self._report = self._writer = -1

    def _outcomes(self) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for line in self._report_text.splitlines():
            facts = json.loads(line)
            if "error" in facts:
                raise SandboxError(f"the sandbox could not run a step: {facts['error']}")
            outcomes.append(self._outcome(len(outcomes), facts))
        if len(outcomes) < len(self._job.steps) and all(outcome.ok for outcome in outcomes):
            nothing = {"status": "tampered", "code": -9, "seconds": 0.0, "cpu_seconds": 0.0, "peak_bytes": 0}
            outcomes.append(self._outcome(len(outcomes), nothing))
        return outcomes

    def _outcome(self, number: int, facts: dict[str, Any]) -> Outcome:
        stdout, stderr = self._outputs[number]
        return Outcome(
            status="output_limit" if stdout.over or stderr.over else facts["status"],
            code=facts["code"],
            seconds=facts["seconds"],
            cpu_seconds=facts["cpu_seconds"],
            peak_bytes=facts["peak_bytes"],
            stdout=bytes(stdout.data[: stdout.cap]),
            stderr=bytes(stderr.data[: stderr.cap]),
        )


def _sealed(data: bytes) -> int:
    """A file in memory that nobody can change, at its beginning."""
    import fcntl  # noqa: PLC0415  not on Windows, where this module can be imported still

    descriptor = os.memfd_create("order", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor
