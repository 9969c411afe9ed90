"""Is every machine ready? All are asked at once; each finding says what is wrong and the command that mends it."""

import json
import secrets
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquila.launch.hostfile import Host
from aquila.launch.shell import start

PROBE_SECONDS = 180  # importing torch from a cold network disk takes its time
MAX_CLOCK_SECONDS = 60.0
_MARK = "aquila-probe "


@dataclass(frozen=True)
class Plan:
    """What is to be launched: who, with which Python, where, and on which port of the head (0: a free one)."""

    hosts: Sequence[Host]
    python: str
    folder: Path  # working directory, the same on every machine
    run_dir: Path
    port: int = 0

    @property
    def head(self) -> Host:
        return self.hosts[0]

    @property
    def on_one_machine(self) -> bool:
        return len(self.hosts) == 1


@dataclass(frozen=True)
class Report:
    """What a machine answered, and what must be mended before it can take part."""

    host: Host
    facts: dict[str, Any]
    problems: tuple[str, ...]


def ask_all(plan: Plan) -> list[Report]:
    """Asks every machine in parallel; the reports are in the order of the hostfile."""
    token = secrets.token_hex(8)
    token_file = plan.run_dir / ".shared"
    token_file.write_text(token, encoding="utf-8")
    try:
        with ThreadPoolExecutor(max_workers=64) as pool:
            answers = list(pool.map(lambda host: _ask(plan, host, token_file), plan.hosts))
    finally:
        token_file.unlink()
    head = answers[0][0]
    return [
        Report(host, facts, tuple([error] if error else _problems(plan, host, facts, head, token)))
        for host, (facts, error) in zip(plan.hosts, answers, strict=True)
    ]


def _ask(plan: Plan, host: Host, token_file: Path) -> tuple[dict[str, Any], str]:
    probe = (Path(__file__).with_name("probe.py")).read_text(encoding="utf-8")
    address = ("127.0.0.1" if plan.on_one_machine else host.name) if host is plan.head else ""
    command = [plan.python, "-c", probe, str(plan.run_dir), str(token_file), address, str(plan.port)]
    try:
        process = start(host, command, folder=plan.folder, environment={}, merge_errors=False)
    except FileNotFoundError as error:
        what = "an ssh client" if error.filename == "ssh" else "it, or name another Python with --python"
        return {}, f"there is no {error.filename} on this machine; install {what}"
    try:
        output, errors = process.communicate(timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {}, f"gave no answer in {PROBE_SECONDS} s; log in and see what it is waiting for: {login(host)}"
    lines = [line for line in output.decode(errors="replace").splitlines() if line.startswith(_MARK)]
    if process.returncode == 0 and lines:
        return {**json.loads(lines[-1].removeprefix(_MARK)), "asked": time.time()}, ""
    return {}, explain_failure(plan, host, process.returncode, errors.decode(errors="replace"))


def login(host: Host) -> str:
    """The ssh command a person types to get to a machine."""
    port = f"-p {host.port} " if host.port else ""
    return f"ssh {port}{host.user + '@' if host.user else ''}{host.name}"


def explain_failure(plan: Plan, host: Host, code: int, errors: str) -> str:
    """What ssh or the shell said, and the exact remedy."""
    last = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), f"exit code {code}")
    target = login(host).removeprefix("ssh ")
    remedies = (
        ("Permission denied", f"it does not let us in; run `ssh-copy-id {target}`"),
        ("Host key verification failed", f"its key is not known yet; run `{login(host)}` once and accept it"),
        ("Could not resolve", "its name is not known; write its address into the hostfile"),
        ("Connection refused", "no ssh server answers there; start sshd, or give its port as user@host:port"),
        ("timed out", "it does not answer; is it on, and does the network reach it?"),
        ("No route to host", "the network does not reach it; check the address in the hostfile"),
    )
    for words, remedy in remedies:
        if code == 255 and words.lower() in errors.lower():
            return f"unreachable ({last}): {remedy}"
    if code == 255:
        return f"unreachable ({last}); try `{login(host)}` by hand"
    if "can't cd" in errors or "cd: " in errors:
        return f"has no folder {plan.folder}; mount or copy the project there, at the same path on every machine"
    if code in (126, 127):
        return (
            f"has no {plan.python}; install Python and the package there at the same path, or name another with "
            "--python"
        )
    return f"could not be asked ({last}); try `{login(host)} {plan.python} -V`"


def _problems(plan: Plan, host: Host, facts: dict[str, Any], head: dict[str, Any], token: str) -> list[str]:
    found = []
    install = f"{plan.python} -m pip install"
    for name, package in (("aquila", "aquila-lm"), ("torch", "torch")):
        ours = head.get(name)
        if facts[name] is None:
            found.append(f"{name} cannot be imported ({facts[f'{name}_error']}); run there: {install} {package}")
        elif ours and facts[name] != ours:
            found.append(f"{name} is {facts[name]}, the head has {ours}; run there: {install} {package}=={ours}")
    if head and facts["python"].split(".")[:2] != head["python"].split(".")[:2]:
        found.append(
            f"Python is {facts['python']}, the head has {head['python']}; name one that all have with --python"
        )
    if facts["token"] != token or not facts["folder"]:
        found.append(f"does not see {plan.run_dir}; put it on a file system that all machines share (--out FOLDER)")
    skew = facts["time"] - facts["asked"]
    if abs(skew) > MAX_CLOCK_SECONDS:
        found.append(f"its clock is {skew:+.0f} s off; run there: timedatectl set-ntp true")
    found += _device_problem(host, facts)
    if host is plan.head and facts["port"] is None:
        found.append(f"port {plan.port} is in use ({facts['port_error']}); leave out --port, or choose another")
    return found


def _device_problem(host: Host, facts: dict[str, Any]) -> list[str]:
    """More processes than devices would share one, and run out of its memory."""
    if not facts["torch"]:
        return []
    available = facts["devices"] or facts["cores"]
    if host.slots <= available:
        return []
    kind = "accelerators" if facts["devices"] else "CPU cores and no accelerator that torch sees"
    return [f"slots={host.slots}, but it has {available} {kind}; write slots={available} into the hostfile"]
