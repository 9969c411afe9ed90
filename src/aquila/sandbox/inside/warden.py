"""The first process of a sandbox: it starts a job when the host asks for one, and lives on.

    host --packet--> warden            one packet a job; a file descriptor for each thing that is sent or answered
         --fork--> init                in namespaces of its own, with a work folder of its own; holds no capability
              --fork--> step           behind rlimits and the seccomp filter: the only one that runs what is not trusted

The warden never reads a job: init receives it after the fork, so nothing of one job is in the memory of the next. In
its pid namespace init is process 1: signals from inside cannot reach it, and when it ends, all that is left ends.
"""

import gc
import json
import os
import socket
import sys
from typing import Any

from aquila.sandbox.inside import kernel, place, step

_MAX_DESCRIPTORS = 64


def main(control_fd: int) -> None:
    """Serves jobs that come on a SOCK_SEQPACKET socket until the host closes it."""
    control = socket.socket(fileno=control_fd)
    settings = json.loads(control.recv(1 << 16))
    os.environ.clear()
    kernel.set_dumpable(False)
    kernel.adopt_orphans()
    gc.collect()
    gc.freeze()  # what is here now is never looked at again, so children share its pages
    control.send(b"ready")
    while control.recv(1, socket.MSG_PEEK):
        _serve(control, settings)
        control.send(b"done")


def _serve(control: socket.socket, settings: dict[str, Any]) -> None:
    namespaces = settings["mode"] == "namespaces"
    scratch = None if namespaces else place.make_scratch(settings["scratch"])
    pid = kernel.fork_into(place.NAMESPACES) if namespaces else os.fork()
    if pid == 0:
        try:
            _run_job(control, settings, scratch)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    if scratch is not None:
        step.end_descendants()  # where init was killed by the sample
        place.remove_scratch(scratch)


def _run_job(control: socket.socket, settings: dict[str, Any], scratch: str | None) -> None:
    _, descriptors, _, _ = socket.recv_fds(control, 16, _MAX_DESCRIPTORS)
    control.close()
    order, leash, report, *streams = descriptors
    try:
        with open(order, "rb") as file:
            job = json.load(file)
        kernel.die_with_parent()
        kernel.adopt_orphans()
        surroundings = place.enter(settings, job, scratch)
        for number, plan in enumerate(job["steps"]):
            descriptors = streams[3 * number : 3 * number + 3]
            outcome = step.run(plan, descriptors, leash, surroundings)
            _say(report, outcome)
            if outcome["status"] != "exited" or outcome["code"] != 0:
                break
    except (OSError, ValueError, KeyError) as error:
        _say(report, {"error": f"{type(error).__name__}: {error}"})


def _say(report: int, message: dict[str, Any]) -> None:
    os.write(report, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
