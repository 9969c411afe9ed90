"""`--memory-limit`: the whole process stays below it, and the text is the one that comes without it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aquila.checkpoint.checkpoint import Export
from aquila.checkpoint.names import expected_tensors
from aquila.checkpoint.native import write_native
from aquila.checkpoint.packed_writer import quantise
from aquila.checkpoint.tensors import from_array
from aquila.kernels.native import usable_kernels
from aquila.model.config import ModelConfig
from parts import tiny_checkpoint, tiny_tokenizer

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc"),
    pytest.mark.skipif(not usable_kernels(), reason="the native kernels are not built"),
]

MIB = 1 << 20
AQUILA = str(Path(sys.executable).with_name("aquila"))
PROMPT = ("--max-new-tokens", "5", "--temperature", "0", "--no-lookup", "class Stack:\n" * 12)
# the peak since the start of the program itself: rusage counts the process that started it too
MEASURE = """
import atexit, pathlib, sys
from aquila.cli.main import run

def tell():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    print(next(line for line in lines if line.startswith("VmHWM:")), file=sys.stderr)

atexit.register(tell)
run()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A packed model of 20 layers, 241 MiB in half precision. Two layers' numbers serve for all."""
    config = ModelConfig(
        vocab_size=tiny_tokenizer().vocab_size,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=20,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=8192,
    )
    generator = np.random.default_rng(0)
    numbers: dict[str, np.ndarray] = {}
    tensors = {}
    for name, shape in expected_tensors(config).items():
        key = re.sub(r"layers\.(\d+)", lambda found: f"layers.{int(found[1]) % 2}", name)
        if key not in numbers:
            values = (
                np.ones(shape, np.float32) if len(shape) == 1 else generator.standard_normal(shape, np.float32) / 20
            )
            numbers[key] = values.astype(np.float16)
        tensors[name] = from_array(numbers[key])
    folder = tmp_path_factory.mktemp("model")
    (folder / "plain").mkdir()
    write_native(Export(config, tensors, "fp16", tiny_tokenizer(), {"name": "model"}), folder / "plain")
    yield quantise(folder / "plain", folder / "model.aqw", to="f16")
    shutil.rmtree(folder)  # it is large


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Iterator[Path]:
    """The model in a file that may be spoiled."""
    yield Path(shutil.copyfile(model, tmp_path / "copy.aqw"))
    (tmp_path / "copy.aqw").unlink(missing_ok=True)


@dataclass(frozen=True)
class Answer:
    token_ids: list[int]
    stats: dict[str, Any]
    peak_bytes: int


def answer(model: Path, *options: str, prefix: tuple[str | Path, ...] = ()) -> Answer:
    """Runs `aquila generate` to its end, in a process of its own."""
    command = [*prefix, sys.executable, "-c", MEASURE, "generate", "-m", model, "--json", "-q", *options, *PROMPT]
    return parse(subprocess.run(command, capture_output=True, text=True, check=False))


def parse(done: subprocess.CompletedProcess[str]) -> Answer:
    assert done.returncode == 0, done.stderr
    completion, stats = (json.loads(line) for line in done.stdout.splitlines())
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", done.stderr)[-1]) << 10
    return Answer(completion["token_ids"], stats, peak)


@pytest.fixture(scope="module")
def unlimited(model: Path) -> Answer:
    return answer(model)


@pytest.mark.parametrize("limit_mib", [160, 220, 640])
def test_the_process_stays_below_the_limit_and_says_the_same(model: Path, unlimited: Answer, limit_mib: int):
    found = answer(model, "--memory-limit", f"{limit_mib}MiB")
    plan = found.stats["plan"]
    assert plan["kv_type"] == "f16"  # as without a limit, so the bits are the same
    assert found.token_ids == unlimited.token_ids
    assert found.peak_bytes <= limit_mib * MIB
    assert plan["total_bytes"] <= plan["limit_bytes"] == limit_mib * MIB
    assert (plan["streamed_bytes"] > 0) == (limit_mib < 640)
    assert unlimited.peak_bytes > 241 * MIB


def test_the_smallest_limit_that_is_named_works(model: Path, unlimited: Answer, aquila):
    done = aquila("generate", "-m", model, "--memory-limit", "20MiB", *PROMPT, exit_code=2)
    named = re.search(r"20 ?MiB is too little .* the smallest that works is (\d+)MiB\n$", done.stderr.decode())
    assert named, done.stderr.decode()
    found = answer(model, "--memory-limit", f"{named[1]}MiB")
    assert found.peak_bytes <= int(named[1]) * MIB
    assert len(found.token_ids) == len(unlimited.token_ids)
    too_little = f"{int(named[1]) - 8}MiB"
    aquila("generate", "-m", model, "--memory-limit", too_little, *PROMPT, exit_code=2)


def test_a_limit_of_no_bytes(aquila, tmp_path: Path):
    checkpoint = quantise(tiny_checkpoint(tmp_path / "tiny"), tmp_path / "tiny.aqw", to="w8")
    done = aquila("generate", "-m", checkpoint, "--memory-limit", "0", *PROMPT, exit_code=2)
    assert done.stderr.startswith(b"error: memory_limit: 0 leaves no memory at all")


def new_cgroup(limit_bytes: int) -> Path:
    """A memory cgroup below the one of this process; the test is skipped where none can be made."""
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    groups = dict(line.split(":", 2)[1:] for line in lines)
    mount, field = Path("/sys/fs/cgroup"), "memory.max"
    if "memory" in groups:
        mount, field = mount / "memory", "memory.limit_in_bytes"
    group = mount / groups.get("memory", groups.get("", "/")).lstrip("/") / f"aquila-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        (group / field).write_text(str(limit_bytes))
    except OSError as error:
        group.rmdir()
        pytest.skip(f"the memory controller is not there: {error}")
    return group


def test_a_cgroup_of_that_size_is_never_full(model: Path, unlimited: Answer):
    """With everything the kernel counts for the process: its pages, its stacks, its page tables, files it reads."""
    limit_mib = 180
    group = new_cgroup(limit_mib * MIB)
    enter = ("sh", "-c", f'echo $$ > "{group}/cgroup.procs"; exec "$@"', "sh")
    try:
        found = answer(model, "--memory-limit", f"{limit_mib}MiB", prefix=enter)
        if (group / "memory.failcnt").exists():
            full = int((group / "memory.failcnt").read_text())
        else:
            full = int(dict(line.split() for line in (group / "memory.events").read_text().splitlines())["max"])
    finally:
        group.rmdir()
    assert found.token_ids == unlimited.token_ids
    assert found.stats["plan"]["streamed_bytes"] > 0
    assert full == 0


def streaming(model: Path, *options: str) -> subprocess.Popen[bytes]:
    """A command that reads most of its weights in every step and says 400 tokens; its first ones have come."""
    command = [AQUILA, "generate", "-m", model, "--memory-limit", "160MiB", "--stream", "-q", *options]
    command += ["--max-new-tokens", "400", "--temperature", "0", "--no-lookup", "class Stack:"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(1), process.communicate()[1].decode()
    return process


@pytest.mark.parametrize("change", ["cut", "written to"])
def test_a_file_that_changes_ends_the_request(copy: Path, change: str):
    process = streaming(copy)
    if change == "cut":
        os.truncate(copy, copy.stat().st_size // 2)
    else:
        with copy.open("r+b") as file:
            file.seek(copy.stat().st_size // 2)
            file.write(bytes(4096))
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert message.startswith(f"error: {copy}: ".encode())
    assert message.count(b"\n") == 1
    assert b"ends at byte" in message or b"was changed" in message


def test_a_file_that_is_replaced_is_read_on(copy: Path, tmp_path: Path):
    process = streaming(copy)
    other = tmp_path / "other.aqw"
    other.write_bytes(b"another model")
    os.replace(other, copy)
    assert process.stdout is not None
    assert process.stdout.read(20)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert (process.returncode, message) == (130, b"error: interrupted\n")


def test_a_killed_process_leaves_nothing(copy: Path, tmp_path: Path):
    def files() -> set[Path]:
        return {path for folder in (tmp_path, Path(os.environ["HOME"])) for path in folder.rglob("*")}

    before = files()
    process = streaming(copy)
    process.kill()
    process.communicate(timeout=60)
    assert files() == before
    assert answer(copy, "--memory-limit", "160MiB").token_ids


def test_a_file_in_memory_has_no_direct_reads_and_works(model: Path, unlimited: Answer):
    """tmpfs: reads go through its own pages, which are not the process's."""
    folder = Path("/dev/shm")
    if not folder.is_dir() or shutil.disk_usage(folder).free < 2 * model.stat().st_size:
        pytest.skip("no room in /dev/shm")
    copied = folder / f"aquila-test-{os.getpid()}.aqw"
    try:
        shutil.copyfile(model, copied)
        found = answer(copied, "--memory-limit", "160MiB")
    finally:
        copied.unlink(missing_ok=True)
    assert found.token_ids == unlimited.token_ids


def test_two_processes_read_one_file(model: Path, unlimited: Answer):
    command = [sys.executable, "-c", MEASURE, "generate", "-m", model, "--json", "-q", "--memory-limit", "180MiB"]
    both = [
        subprocess.Popen([*command, *PROMPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        out, message = process.communicate(timeout=60)
        found = parse(subprocess.CompletedProcess(command, process.returncode, out, message))
        assert found.token_ids == unlimited.token_ids
        assert found.peak_bytes <= 180 * MIB


@pytest.mark.parametrize("limit", [(), ("--memory-limit", "200MiB")])
def test_ctrl_c_inside_a_long_prompt(start, model: Path, tmp_path: Path, limit: tuple[str, ...]):
    """The prompt takes far longer than the command may take to end."""
    text = tmp_path / "prompt.txt"
    text.write_text("".join(map(chr, np.random.default_rng(1).integers(97, 123, 7000))))
    process = start("generate", "-m", model, *limit, "--max-context", "7200", "--max-new-tokens", "1", "-f", text)
    assert process.stderr is not None
    assert any(b"loaded" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=10)
    assert (process.returncode, message) == (130, b"error: interrupted\n")
