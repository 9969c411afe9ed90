"""Ctrl-C, a reader that leaves, a disk that fills: an exit code, at most one line, and no file that looks whole."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from parts import tiny_checkpoint

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def long_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With room for an answer of seconds."""
    return tiny_checkpoint(tmp_path_factory.mktemp("long") / "tiny", max_position_embeddings=1 << 14)


def interrupt_after(process: subprocess.Popen[bytes], word: bytes) -> bytes:
    """Sends SIGINT once a line on stderr holds `word`; gives what comes on stderr after it."""
    assert process.stderr is not None
    assert any(word in line for line in process.stderr), f"the command ended without saying {word!r}"
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    return rest


@pytest.mark.parametrize(
    ("command", "word", "native"),
    [
        ("generate x", b"typer.params", "1"),
        ("generate --max-new-tokens 16000 --temperature 0 class", b"aquila.generate.native_runner", "1"),
        ("generate --device cpu x", b"torch.torch_version", "0"),  # then torch's C++ part, which swallows exceptions
    ],
)
def test_ctrl_c_while_modules_are_imported(
    start, long_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, command: str, word: bytes, native: str
):
    monkeypatch.setenv("AQUILA_NATIVE", native)
    name, *rest = command.split()
    model = ("-m", long_checkpoint) if name == "generate" else ()
    process = start(name, *model, *rest, python=("-X", "importtime"))
    message = interrupt_after(process, word)
    assert process.returncode == 130, message.decode()
    assert b"Traceback" not in message
    assert message.endswith(b"error: interrupted\n")


@pytest.mark.parametrize("error", ["ImportError('libtorch.so: cannot read file data')", "OSError(4, 'interrupted')"])
def test_ctrl_c_that_makes_an_import_fail(
    aquila, long_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
):
    """As where a signal cuts a system call of the loader short: `KeyboardInterrupt` itself still waits then."""
    (tmp_path / "torch.py").write_text(f"import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise {error}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = aquila("generate", "-m", long_checkpoint, "x", exit_code=130, AQUILA_NATIVE="0")
    assert done.stderr.endswith(b"error: interrupted\n")


# Ctrl-C within a call of torch, and what comes out of it: raised from it, raised beside it, or C++'s words for it.
BECOMES = {
    "cause": "raise RuntimeError('cannot allocate') from interrupt",
    "context": "raise OSError(5, 'cannot read')",
    "words": "words = str(type(interrupt).__name__) + ': at attention'",
}


@pytest.mark.parametrize("becomes", BECOMES)
def test_ctrl_c_that_a_library_makes_another_error_of(
    start, long_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, becomes: str
):
    monkeypatch.setenv("AQUILA_NATIVE", "0")
    script = f"""
import os, signal, sys, torch
from aquila.cli.main import run

def interrupted(*arguments, **options):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        while True:  # until Python has run the handler
            pass
    except KeyboardInterrupt as interrupt:
        {BECOMES[becomes]}
    raise RuntimeError(words)

torch.nn.functional.scaled_dot_product_attention = interrupted
del sys.argv[0]
run()
"""
    process = start("generate", "-m", long_checkpoint, "x", python=("-c", script))
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130, message.decode()
    assert message.endswith(b"error: interrupted\n")
    assert b"Traceback" not in message


def test_ctrl_c_while_a_text_is_generated(start, long_checkpoint: Path):
    process = start(
        "generate", "-m", long_checkpoint, "--max-new-tokens", "16000", "--temperature", "0", "class Stack:"
    )
    assert interrupt_after(process, b"loaded") == b"error: interrupted\n"
    assert process.returncode == 130


@pytest.mark.parametrize("command", ["models", "doctor --offline", "generate --help"])
def test_a_reader_that_leaves_ends_the_command_quietly(start, command: str):
    process = start(*command.split())
    process.stdout.close()
    _, message = process.communicate(timeout=60)
    assert message == b""
    assert process.returncode == 1


def test_a_reader_that_leaves_ends_a_stream(start, long_checkpoint: Path):
    options = ("--stream", "-q", "--max-new-tokens", "16000", "--temperature", "0")
    process = start("generate", "-m", long_checkpoint, *options, "class Stack:")
    process.stdout.read(10)
    process.stdout.close()
    _, message = process.communicate(timeout=60)
    assert message == b""
    assert process.returncode == 1


def test_closed_streams_are_no_surprise(aquila_script: str, checkpoint: Path):
    def sh(command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["sh", "-c", command], capture_output=True, check=False)

    done = sh(f"{aquila_script} models >&-")
    assert (done.returncode, done.stderr) == (0, b"")
    done = sh(f"{aquila_script} generate -m {checkpoint} <&-")
    assert done.returncode == 2
    assert b"the prompt is empty" in done.stderr
    done = sh(f"{aquila_script} models >/dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: No space left on device")


@pytest.mark.parametrize(("to", "name"), [("native", "out"), ("hf", "out"), ("gguf", "out.gguf")])
def test_a_conversion_that_runs_out_of_room_leaves_nothing(
    aquila_script: str, checkpoint: Path, tmp_path: Path, to: str, name: str
):
    limited = ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh"]  # a disk that is full after 100 blocks of a file
    command = [*limited, aquila_script, "convert", checkpoint, tmp_path / name, "--to", to, "--dtype", "fp32"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path / name}: cannot be written: ".encode())
    assert done.stderr.count(b"\n") == 1
    assert os.listdir(tmp_path) == []


def test_two_conversions_to_one_place_leave_one_whole(start, aquila, checkpoint: Path, tmp_path: Path):
    command = ("convert", checkpoint, tmp_path / "out", "--to", "native")
    both = [start(*command), start(*command)]
    messages = [process.communicate(timeout=60)[1].decode() for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes
    for code, message in zip(codes, messages, strict=True):
        assert code == 0 or message.startswith("error: "), message
    assert os.listdir(tmp_path) == ["out"]
    aquila("verify", tmp_path / "out")
