"""`aquila train` as a user types it. Runs that are killed, and several processes, are in test_resume.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from train_parts import run_folder, write_recipe

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("train"))


def test_a_dry_run_says_all_and_writes_nothing(folder: Path, aquila: Callable) -> None:
    recipe = write_recipe(folder, "dry.yaml", run_dir=str(folder / "dry"))
    text = aquila("train", recipe, "parallel.dp_shard=2", "--dry-run").stdout.decode()
    for words in (
        "42.1k parameters",
        "sequences of 32 tokens",
        "256 tokens a step",
        "2 (2 shards)",
        "every shape fits",
    ):
        assert words in text
    assert not (folder / "dry").exists()


def test_mistakes_are_one_line(folder: Path, aquila: Callable) -> None:
    """The rest of them, without a process each, in tests/unit/train/test_recipe.py."""
    recipe = write_recipe(folder, "mistakes.yaml", run_dir=str(folder / "mistakes"))
    assert b"unknown key; did you mean 'lr'?" in aquila("train", recipe, "train.lrr=1", exit_code=2).stderr
    assert b"it is not a run" in aquila("train", folder, exit_code=2).stderr
    assert not (folder / "mistakes").exists()


def test_estimate_answers_whether_it_fits(aquila: Callable) -> None:
    rows = aquila("train", "estimate", "aquila-7b", "--memory", "24GiB").stdout.decode().splitlines()
    verdicts = {row.split("  ")[0].strip(): row for row in rows[2:]}
    assert "does not fit" in verdicts["full, bf16"]
    assert "does not fit" not in verdicts["LoRA r=16, bf16, full checkpointing"]


def test_a_run_named_like_a_command_is_told_how_to_be_named(
    folder: Path, aquila: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(folder, "run.yaml").rename(tmp_path / "run.yaml")
    monkeypatch.chdir(tmp_path)
    aquila("train", "run.yaml", "run_dir=run", "train.steps=2")
    for arguments in (["run"], ["run", "--dry-run"], ["run", "train.lr=1"]):
        assert b"for the path write ./run" in aquila("train", *arguments, exit_code=2).stderr
    assert b"nothing left to do" in aquila("train", "./run").stderr
    assert b"`aquila train ./run key.sub=value`" in aquila("train", "run.yaml", "run_dir=run", exit_code=2).stderr
