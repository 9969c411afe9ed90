"""`aquila serve` as a process: what it prints, what real signals do, and usage errors before anything is loaded."""

import json
import re
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from parts import tiny_checkpoint

pytestmark = pytest.mark.e2e

LONG = {"prompt": "class Stack:", "max_tokens": 16000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def long_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With room for an answer of seconds."""
    return tiny_checkpoint(tmp_path_factory.mktemp("long") / "tiny", max_position_embeddings=1 << 14)


def until_ready(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """The address that it serves at, and all that it has said."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line.decode()
        if said.rstrip().endswith("Ctrl-C stops"):
            found = re.search(r"ready +(http://\S+)", said)
            assert found, said
            return found[1], said
    raise AssertionError(f"it ended: {said}")


def test_sigterm_lets_an_answer_finish(start, long_checkpoint: Path):
    process = start("serve", long_checkpoint, "--port", "0")
    url, said = until_ready(process)
    assert "model    tiny; context 16384 tokens; chat template" in said
    assert "key      not asked for" in said
    limits = Path(f"/proc/{process.pid}/limits")
    if limits.exists():  # a shell's 1024 files would be a thousand idle connections
        soft, hard = re.findall(r"Max open files +(\S+) +(\S+)", limits.read_text(encoding="utf-8"))[0]
        assert soft == hard
    body = {**LONG, "max_tokens": 3000}
    with (
        httpx.Client(trust_env=False) as client,
        client.stream("POST", f"{url}/v1/completions", json=body) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        events = [line for line in lines if line.startswith("data: {")]
    assert json.loads(events[-1].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"Traceback" not in rest


def test_what_takes_longer_than_the_drain_ends_with_an_error(start, long_checkpoint: Path):
    process = start("serve", long_checkpoint, "--port", "0", "--drain", "0.1")
    url, _ = until_ready(process)
    with httpx.Client(trust_env=False) as client, client.stream("POST", f"{url}/v1/completions", json=LONG) as response:
        lines = response.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        events = [line for line in lines if line]
    assert events[-1] == "data: [DONE]"
    assert "the server is shutting down" in events[-2]
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_second_ctrl_c_ends_it_at_once(start, long_checkpoint: Path):
    process = start("serve", long_checkpoint, "--port", "0")
    url, _ = until_ready(process)
    with httpx.Client(trust_env=False) as client, client.stream("POST", f"{url}/v1/completions", json=LONG) as response:
        lines = response.iter_lines()  # kept: without it the connection would close, and the answer end with it
        next(lines)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert any(b"stopping" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130


def test_nothing_of_torch_is_loaded(start, long_checkpoint: Path):
    """A native model starts fast; `/proc` shows which libraries a process has mapped."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("there is no /proc here")
    process = start("serve", long_checkpoint, "--port", "0", "--served-name", "mine")
    url, said = until_ready(process)
    assert '"model":"mine"' in said
    if "libtorch" in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8"):
        pytest.skip("the native kernels are not built here") if "torch" in said else pytest.fail("torch was loaded")
    assert httpx.get(f"{url}/v1/models", trust_env=False).json()["data"][0]["id"] == "mine"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--port", "99999"), "--port: 99999 is not between 0 and 65535"),
        (("--max-queue", "-1"), "--max-queue: -1 is negative"),
        (("--max-sequences", "0"), "--max-sequences: 0 is not between 1 and 4096"),
        (("--read-timeout", "0"), "--read-timeout: 0.0 is not above 0"),
        (("--drain", "-1"), "--drain: -1.0 is negative"),
        (("--api-key", "two words"), "--api-key: a key is printable ASCII without spaces"),
        (("--api-key-file", "/nowhere"), "--api-key-file: /nowhere cannot be read: No such file or directory"),
        (("--api-key-file", "/dev/null"), "--api-key-file: /dev/null has no key; write one a line"),
        (("--adapter", "x"), "--adapter: 'x' is not NAME=FOLDER"),
        (("--adapter", "x=a", "--adapter", "x=b"), "the name 'x' is given twice"),
        (("--cors-origin", "example.org"), "--cors-origin: 'example.org' is no origin"),
        (("--template", "nope"), "chat template 'nope' is unknown"),
        (("--host", "256.1.1.1"), "cannot listen on 256.1.1.1:0"),
        (("--max-context", "99999"), "max_context: 99999 is not between 1 and the 128 positions"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_usage(aquila, checkpoint: Path, options, message):
    port = () if "--port" in options else ("--port", "0")
    assert message in aquila("serve", checkpoint, *port, *options, exit_code=2).stderr.decode()


def test_a_port_in_use_is_known_before_the_model_is_loaded(aquila, checkpoint: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = aquila("serve", checkpoint, "--port", port, exit_code=2).stderr.decode()
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port or --host" in message
    assert "loading" not in message


def test_a_model_that_is_not_there(aquila):
    assert "no-such-model" in aquila("serve", "no-such-model", "--port", "0", exit_code=2).stderr.decode()


def test_an_open_door_is_warned_of(start, checkpoint: Path, tmp_path: Path):
    process = start("serve", checkpoint, "--host", "0.0.0.0", "--port", "0")
    _, said = until_ready(process)
    assert "WARNING: anybody who can reach 0.0.0.0 can use this server: it has no key." in said
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    keys = tmp_path / "keys"
    keys.write_text("# ours\nsecret\n")
    process = start("serve", checkpoint, "--host", "0.0.0.0", "--port", "0", "--api-key-file", keys)
    url, said = until_ready(process)
    assert "WARNING" not in said
    assert "Bearer KEY" in said
    assert "secret" not in said
    assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 401
    assert httpx.get(f"{url}/v1/models", headers={"x-api-key": "secret"}, trust_env=False).status_code == 200
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_signal_while_loading_ends_it(start, checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    """torch takes a while to load, in a thread that nothing can stop."""
    monkeypatch.setenv("AQUILA_NATIVE", "0")
    process = start("serve", checkpoint, "--port", "0", "--device", "cpu")
    assert process.stderr is not None
    assert any(b"says when it is ready" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
