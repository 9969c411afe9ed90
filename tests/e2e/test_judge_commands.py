"""`aquila sandbox` and `aquila eval judge|selftest|add` as they are typed, and what they refuse."""

import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from aquila.errors import SandboxError
from aquila.sandbox.isolation import find_isolation
from parts import shared_data

pytestmark = pytest.mark.e2e

# Refuses what namespaces and Landlock are made with, then becomes the command.
WITHOUT_WALLS = """
import os, struct, sys
from aquila.sandbox.inside import kernel
def when(number): return struct.pack("=HBBIHBBI", 0x15, 0, 1, number, 0x06, 0, 0, 0x00050001)
unshare, clone = {"x86_64": (272, 56), "aarch64": (97, 220)}[os.uname().machine]
flags = struct.pack("=HBBI", 0x15, 0, 4, clone) + struct.pack("=HBBI", 0x20, 0, 0, 16)
flags += struct.pack("=HBBI", 0x45, 0, 1, 0x10000000) + struct.pack("=HBBI", 0x06, 0, 0, 0x00050001)
flags += struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
code = struct.pack("=HBBI", 0x20, 0, 0, 0) + when(444) + when(unshare) + when(435) + flags
kernel.forbid_new_privileges()
kernel.install_filter(code + struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(scope="module", autouse=True)
def walls() -> None:
    try:
        find_isolation()
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture
def python_file(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(
        "import sys\ntext = sys.stdin.read()\nprint(text[::-1])\nprint('E', file=sys.stderr)\nsys.exit(len(text))\n"
    )
    return path


def run(aquila_script: str, *words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([aquila_script, *words], input=stdin, capture_output=True, check=False)


def test_a_program_gets_stdin_and_gives_its_exit_code(aquila_script: str, python_file: Path):
    done = run(
        aquila_script,
        "sandbox",
        "run",
        "--lang",
        "python",
        python_file,
        "--time",
        "20",
        "--mem",
        "256MiB",
        stdin=b"abc",
    )
    assert (done.returncode, done.stdout) == (3, b"cba\n")
    assert done.stderr.startswith(b"E\nran: exited, code 3, ")


def test_how_a_program_ended_as_json(aquila_script: str, tmp_path: Path):
    loop, crash = tmp_path / "loop.py", tmp_path / "crash.py"
    loop.write_text("while True: pass\n")
    crash.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    done = run(aquila_script, "sandbox", "run", "-l", "py", loop, "--time", "0.3", "--json")
    facts = json.loads(done.stdout)
    assert (done.returncode, facts["status"], facts["step"]) == (124, "timeout", "run")
    done = run(aquila_script, "sandbox", "run", "-l", "py", crash, "--json")
    assert (done.returncode, json.loads(done.stdout)["exit_code"]) == (128 + signal.SIGSEGV, -signal.SIGSEGV)


def test_ctrl_c_ends_a_program(start, tmp_path: Path):
    path = tmp_path / "loop.py"
    path.write_text("while True: pass\n")
    process = start("sandbox", "run", "-l", "python", path, "--time", "100")
    while not (running := _programs(process.pid)):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert (process.returncode, message) == (130, b"error: interrupted\n")
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in running)


def _programs(pid: int) -> list[int]:
    """Sandboxed programs among the descendants of a process."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):  # one that ends while it is looked at
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()):
            if b"main.py" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
            found += _programs(child)
    return found


def test_the_doctor_finds_that_every_promise_holds(aquila):
    facts = json.loads(aquila("sandbox", "doctor", "--json").stdout)
    assert len(facts["guarantees"]) == 13
    assert all(found["holds"] for found in facts["guarantees"].values()), facts["guarantees"]
    assert facts["toolchains"]["python"].startswith("Python 3.")


def test_without_walls_nothing_is_run_unless_one_asks_for_it(aquila_script: str, python_file: Path):
    command = [sys.executable, "-c", WITHOUT_WALLS, aquila_script, "sandbox", "run", "-l", "python", str(python_file)]
    done = subprocess.run(command, input=b"abc", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    message = done.stderr.decode()
    assert message.startswith("error: untrusted code is not run here, there are no walls (namespaces: ")
    assert "landlock: this kernel has no Landlock, or it is switched off)" in message
    assert message.endswith("or accept the risk with --unsafe-no-sandbox\n")
    done = subprocess.run([*command, "--unsafe-no-sandbox"], input=b"abc", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"cba\n")
    assert b"warning: no sandbox: the code can do whatever you can" in done.stderr


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        ("sandbox run -l cobol FILE", 2, "language 'cobol' is unknown; there are python, cpp, java, js, go, rust"),
        ("sandbox run -l python FILE --mem lots", 2, "'lots' is not a size"),
        ("sandbox run -l python absent.py", 1, "absent.py: No such file or directory"),
        ("sandbox run -l python FILE --isolation none", 2, "--unsafe-no-sandbox is the way to run without"),
        (
            "eval judge FILE --bench mbpp --data FILE",
            2,
            "benchmark 'mbpp' is unknown; there are humaneval, humaneval-x",
        ),
        ("eval judge FILE --bench humaneval --data FILE", 1, "that of no file of humaneval"),
        ("eval judge FILE --bench humaneval-x", 2, "give --data FILE, or --lang"),
        (
            "eval judge FILE --bench humaneval --judge kind",
            2,
            "--judge 'kind' is unknown; there are trusted and official",
        ),
        ("eval judge FILE --bench humaneval -k 0", 2, "-k '0': give whole numbers from 1 on"),
        (
            "eval selftest --languages kotlin",
            2,
            "language 'kotlin' is unknown; there are python, cpp, java, js, go, rust",
        ),
        ("eval add absent", 1, "absent: holds none of HumanEval.jsonl.gz"),
    ],
)
def test_wrong_usage_is_one_line(aquila, python_file: Path, words: str, exit_code: int, message: str):
    done = aquila(*(str(python_file) if word == "FILE" else word for word in words.split()), exit_code=exit_code)
    assert message in done.stderr.decode()


def test_judge_prints_a_line_a_sample_and_one_of_the_result(aquila, tmp_path: Path):
    data = shared_data("humaneval") / "HumanEval.jsonl.gz"
    samples = tmp_path / "samples.jsonl"
    rows = [
        ("HumanEval/2", "    return number % 1.0\n"),
        ("HumanEval/2", "    return 0\n"),
        ("HumanEval/3", "    return ("),
    ]
    samples.write_text("".join(json.dumps({"task_id": task, "completion": text}) + "\n" for task, text in rows))
    *lines, summary = map(
        json.loads,
        aquila("eval", "judge", samples, "--bench", "humaneval", "--data", data, "--json").stdout.splitlines(),
    )
    assert [(line["task_id"], line["i"], line["status"]) for line in lines] == [
        ("HumanEval/2", 0, "passed"),
        ("HumanEval/2", 1, "wrong"),
        ("HumanEval/3", 0, "compile_error"),
    ]
    assert summary["pass_at_k"]["1"]["value"] == 0.25
    assert summary["statuses"]["passed"] == 1
    official = aquila(
        "eval", "judge", samples, "--bench", "humaneval", "--data", data, "--judge", "official"
    ).stdout.decode()
    assert "pass@1: 25.0% (95 % interval 0.0% to 50.0%)\npass@10: not defined" in official


def test_selftest_judges_references_and_stubs_and_skips_what_is_not_there(aquila):
    data = shared_data("humaneval")
    words = ("eval", "selftest", "--data", data, "--tasks", "3", "--json")
    empty = aquila(*words, "--languages", "python,cpp", PATH="/nowhere")
    found = json.loads(empty.stdout.splitlines()[-1])["languages"]
    assert found["python"] == found["python"] | {"passed": 3, "failed": 0, "skipped": None}
    assert found["cpp"] == found["cpp"] | {
        "passed": 0,
        "failed": 0,
        "skipped": "no g++ on this machine (apt install g++)",
    }
    no_data = aquila("eval", "selftest", "--languages", "js", "--json")
    assert "no file of humaneval-x in js is here" in json.loads(no_data.stdout)["languages"]["js"]["skipped"]


@pytest.mark.slow
def test_every_reference_solution_in_python_passes_and_no_stub_does(aquila):
    found = aquila("eval", "selftest", "--data", shared_data("humaneval"), "--languages", "python", "--json")
    assert json.loads(found.stdout)["languages"]["python"] | {"seconds": 0} == {
        "passed": 164,
        "failed": 0,
        "skipped": None,
        "seconds": 0,
    }


@pytest.mark.slow
@pytest.mark.parametrize(("language", "tasks"), [("js", 6), ("cpp", 1), ("java", 2), ("go", 2)])
def test_reference_solutions_of_other_languages_pass(aquila, language: str, tasks: int):
    words = ("--languages", language, "--tasks", str(tasks), "--workers", "1", "--json")
    result = json.loads(aquila("eval", "selftest", "--data", shared_data("humaneval"), *words).stdout)["languages"][
        language
    ]
    if result["skipped"]:
        pytest.skip(result["skipped"])
    assert (result["passed"], result["failed"]) == (tasks, 0)
