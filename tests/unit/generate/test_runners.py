"""A memory limit runs the weights that were asked for, whatever was packed before."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aquila
from aquila.checkpoint.packed_writer import quantise_apart
from aquila.errors import CheckpointError, ConfigError
from aquila.generate.device_plan import DevicePlan
from aquila.generate.native_runner import NativeRunner
from aquila.generate.sampling import SamplingParams
from aquila.kernels.native import native_module, usable_kernels
from aquila.machine import may_have_accelerator
from parts import tiny_checkpoint

pytestmark = pytest.mark.skipif(not usable_kernels(), reason="the native kernels are not built")

LIMIT = 1 << 30


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AQUILA_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


def tokens(path: Path, memory_limit: int | None = None) -> list[int]:
    model = aquila.load(path, device="cpu", memory_limit=memory_limit)
    return model.generate("def f", SamplingParams(temperature=0.0, max_new_tokens=12))[0].token_ids


def two_models(folder: Path) -> tuple[Path, Path]:
    """Of one name, in two folders; the same shape, other weights."""
    for name in ("a", "b"):
        (folder / name).mkdir()
    first = tiny_checkpoint(folder / "a" / "ckpt", initializer_range=0.3)
    return first, tiny_checkpoint(folder / "b" / "ckpt", initializer_range=0.6)


def test_models_of_one_name_do_not_share_a_packed_file(tmp_path: Path):
    first, second = two_models(tmp_path)
    assert tokens(first) != tokens(second)
    assert tokens(first, LIMIT) == tokens(first)
    assert tokens(second, LIMIT) == tokens(second)


def test_a_model_that_was_written_again_is_packed_again_and_its_old_copy_removed(tmp_path: Path, own_cache: Path):
    first, second = two_models(tmp_path)
    assert tokens(first, LIMIT) == tokens(first)
    (before,) = own_cache.iterdir()
    other = Path(shutil.copyfile(before, own_cache / "mine-f32.aqw"))  # as `aquila quantise` names them
    tokens(second, LIMIT)
    shutil.rmtree(first)
    shutil.copytree(second, first)
    assert tokens(first, LIMIT) == tokens(second)
    assert other.exists()
    assert not before.exists()
    assert len(list(own_cache.iterdir())) == 3  # that of the second model is left alone


def test_a_limit_that_cannot_work_is_refused_before_anything_is_packed(tmp_path: Path, own_cache: Path):
    first, _ = two_models(tmp_path)
    with pytest.raises(ConfigError, match="is too little for this model; the smallest that works is"):
        tokens(first, 1 << 20)
    assert not own_cache.exists()


def test_packing_leaves_no_memory_behind(tmp_path: Path, own_cache: Path):
    """It runs in a process of its own; the plan of the first run is that of the second."""
    first, _ = two_models(tmp_path)
    code = (
        "import sys, aquila\n"
        "plan = aquila.load(sys.argv[1], device='cpu', memory_limit=1 << 30).plan\n"
        "print(plan.process_bytes)"
    )
    held = [
        int(subprocess.run([sys.executable, "-c", code, str(first)], capture_output=True, check=True).stdout)
        for _ in range(2)
    ]
    assert abs(held[0] - held[1]) < 4 << 20


def test_an_interrupt_ends_the_packing_too(tmp_path: Path, own_cache: Path):
    """The signal goes to the one process, as `kill -INT` sends it."""
    source = tiny_checkpoint(tmp_path / "large", num_hidden_layers=16, hidden_size=256, intermediate_size=1024)
    command = [str(Path(sys.executable).with_name("aquila")), "generate", "-m", str(source), "--memory-limit", "1GiB"]
    process = subprocess.Popen([*command, "--quantize", "w4", "hi"], stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert b"packing" in process.stderr.readline()
    while not (own_cache.is_dir() and list(own_cache.iterdir())):  # as soon as something is being written
        assert process.poll() is None
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert (process.returncode, message) == (130, b"error: interrupted\n")
    assert list(own_cache.iterdir()) == []


def test_a_source_that_cannot_be_packed_says_why(tmp_path: Path, own_cache: Path):
    first, _ = two_models(tmp_path)
    with pytest.raises(CheckpointError, match=r"packed.*\.txt: a packed model is one file"):
        quantise_apart(first, own_cache / "packed.txt", to="w8")


@pytest.mark.parametrize("kv_dtype", ["f16", "i8"])
def test_keys_and_values_are_kept_as_asked(tmp_path: Path, kv_dtype: str):
    first, _ = two_models(tmp_path)
    for limit in (None, LIMIT):
        model = aquila.load(first, device="cpu", memory_limit=limit, kv_dtype=kv_dtype)
        assert isinstance(model.engine.runner, NativeRunner)
        assert model.engine.runner.kv_type == kv_dtype
    with pytest.raises(ConfigError, match="kv_dtype: 'int8' is not one of f16, i8"):
        aquila.load(first, device="cpu", kv_dtype="int8")


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AQUILA_NATIVE", "0")
    native_module.cache_clear()
    yield
    native_module.cache_clear()


@pytest.mark.usefixtures("without_kernels")
def test_torch_runs_within_a_limit_where_a_device_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    first = tiny_checkpoint(tmp_path / "model", num_hidden_layers=8)
    with pytest.raises(ConfigError) as refused:
        tokens(first, 1000)
    limit = int(str(refused.value).rpartition(" ")[2].removesuffix("MiB")) << 20
    assert tokens(first, limit) == tokens(first)
    assert "the limit bounds what torch computes with" in caplog.text
    model = aquila.load(first, device="cpu", memory_limit=limit)
    assert isinstance(model.plan, DevicePlan)
    assert model.plan.explain().startswith("memory limit ")


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.skipif(may_have_accelerator(), reason="there may be an accelerator")
def test_a_limit_needs_something_that_can_keep_it(tmp_path: Path):
    first = tiny_checkpoint(tmp_path / "model")
    with pytest.raises(ConfigError, match="memory_limit: needs an accelerator or the native CPU kernels"):
        aquila.load(first, memory_limit=LIMIT)
    for option in ({"quantize": "w4"}, {"kv_dtype": "i8"}):
        with pytest.raises(ConfigError, match=f"{next(iter(option))}: needs the native CPU kernels"):
            aquila.load(first, device="cpu", **option)


def test_an_unchanged_model_is_packed_once(tmp_path: Path, own_cache: Path):
    first, _ = two_models(tmp_path)
    tokens(first, LIMIT)
    (packed,) = own_cache.iterdir()
    written = packed.stat().st_mtime_ns
    tokens(first, LIMIT)
    assert [(file, file.stat().st_mtime_ns) for file in own_cache.iterdir()] == [(packed, written)]
