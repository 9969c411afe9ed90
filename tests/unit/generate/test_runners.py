"""A memory limit runs the weights that were asked for, whatever was packed before."""

import shutil
from pathlib import Path

import pytest

import aquila
from aquila.generate.sampling import SamplingParams
from aquila.kernels.native import usable_kernels
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


def test_a_model_that_was_written_again_is_packed_again(tmp_path: Path):
    first, second = two_models(tmp_path)
    assert tokens(first, LIMIT) == tokens(first)
    shutil.rmtree(first)
    shutil.copytree(second, first)
    assert tokens(first, LIMIT) == tokens(second)


def test_an_unchanged_model_is_packed_once(tmp_path: Path, own_cache: Path):
    first, _ = two_models(tmp_path)
    tokens(first, LIMIT)
    (packed,) = own_cache.iterdir()
    written = packed.stat().st_mtime_ns
    tokens(first, LIMIT)
    assert [(file, file.stat().st_mtime_ns) for file in own_cache.iterdir()] == [(packed, written)]
