"""Every cheat and every way out, judged for real: the verdict, and that the host is as it was."""

import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import cheats
import escapes
from aquila.errors import SandboxError
from aquila.evaluate.judge.python import PythonJudge
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.tasks import Task
from aquila.sandbox.isolation import Mode, find_isolation
from aquila.sandbox.job import MIB

pytestmark = pytest.mark.timeout(120, method="thread")  # SIGALRM is the judge's

DAEMON = f"aq{os.getpid()}"
TASK = Task("Own/0", "python", cheats.PROMPT, "", cheats.TEST, "add")
RULES = Rules(seconds=20.0, call_seconds=20.0, memory_bytes=64 * MIB, answer_bytes=MIB)
SHORT = Rules(seconds=0.4, call_seconds=0.4, memory_bytes=128 * MIB)
# On the host's disk a job that fills its folder is ended, and not refused another byte; what is shut counts as full.
ENDED_UNDER_LANDLOCK = ("23 fill /tmp", "24 fill the work folder", "67 shut the folder", "68 very many files")


@dataclass(frozen=True)
class Host:
    """Something of the host for each way out to be aimed at."""

    port: int
    name: str
    secret: Path
    server: socket.socket
    abstract: socket.socket


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    secret = folder / "secret"
    secret.write_text("hunter2", encoding="utf-8")
    secret.chmod(0o644)
    name = f"aquila-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + name)
        abstract.listen()
        server.setblocking(False)
        abstract.setblocking(False)
        yield Host(server.getsockname()[1], name, secret, server, abstract)


def open_judge(mode: Mode, rules: Rules) -> PythonJudge:
    try:
        return PythonJudge(find_isolation(mode), rules)
    except SandboxError as error:
        pytest.skip(f"no {mode} here: {error}")


@pytest.fixture(scope="module", params=["namespaces", "landlock"])
def judge(request: pytest.FixtureRequest, host: Host) -> Iterator[PythonJudge]:
    """After all its cases the host is looked at: nobody came in, nothing is changed, nothing runs on."""
    os.environ["AQUILA_TEST_SECRET"] = "hunter2"
    opened = open_judge(request.param, RULES)
    before = _folders()
    yield opened
    opened.close()
    del os.environ["AQUILA_TEST_SECRET"]
    for folder, (mode, names) in _folders().items():
        assert mode == before[folder][0]
        assert names >= before[folder][1]
        assert not names & {"aquila-was-here", "gone"}
    assert host.secret.read_text(encoding="utf-8") == "hunter2"
    for listener in (host.server, host.abstract):
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert DAEMON not in _names_of_processes()
    assert not list(Path.cwd().glob("core*"))


@pytest.fixture(scope="module")
def patient() -> Iterator[PythonJudge]:
    opened = open_judge("namespaces", RULES)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def short() -> Iterator[PythonJudge]:
    opened = open_judge("namespaces", SHORT)
    yield opened
    opened.close()


def _folders() -> dict[str, tuple[int, set[str]]]:
    """Folders that a way out would write to or empty: their modes, and the names in them."""
    found = {}
    for folder in ("/", "/usr", "/usr/lib", "/etc", "/home"):
        if os.access(folder, os.R_OK):
            found[folder] = stat.S_IMODE(os.stat(folder).st_mode), set(os.listdir(folder))
    return found


def _names_of_processes() -> set[str]:
    names = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                names.add((entry / "comm").read_text(encoding="utf-8").strip())
            except OSError:
                continue
    return names


@pytest.mark.parametrize("name", cheats.CHEATS)
def test_a_cheat_gets_what_it_deserves(patient: PythonJudge, name: str):
    body, expected = cheats.CHEATS[name]
    verdict = patient.judge(TASK, cheats.PROMPT + body)
    assert verdict.status in expected, verdict


@pytest.mark.parametrize("name", cheats.ENDLESS)
def test_what_never_ends_is_ended(short: PythonJudge, name: str):
    verdict = short.judge(TASK, cheats.PROMPT + cheats.ENDLESS[name])
    assert verdict.status == "timeout", verdict


@pytest.mark.parametrize("name", escapes.ESCAPES)
def test_a_way_out_is_shut(judge: PythonJudge, host: Host, name: str):
    body = escapes.ESCAPES[name].replace("aqdaemon", DAEMON)
    for word, value in (("{port}", str(host.port)), ("{name}", host.name), ("{secret}", str(host.secret))):
        body = body.replace(word, value)
    verdict = judge.judge(TASK, cheats.PROMPT + body)
    if judge.walls == "landlock" and name in ENDED_UNDER_LANDLOCK:
        assert verdict.status == "output_limit", verdict
    else:
        assert verdict.passed, verdict


def test_an_honest_sample_passes_after_all_that(judge: PythonJudge):
    assert judge.judge(TASK, cheats.PROMPT + "    return a + b\n").passed
