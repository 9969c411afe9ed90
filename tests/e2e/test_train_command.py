"""`aquila train` as a user types it."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from train_parts import metrics_of, run_folder, same_part, write_recipe

pytestmark = pytest.mark.e2e

AQUILA = str(Path(sys.executable).with_name("aquila"))


SETTINGS = {"train__steps": 20, "save__save_interval": 5, "eval": {"eval_interval": 0}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and `whole`: a run that nobody disturbed."""
    folder = run_folder(tmp_path_factory.mktemp("train"))
    recipe = write_recipe(folder, "whole.yaml", **SETTINGS, run_dir=str(folder / "whole"))
    subprocess.run([AQUILA, "train", recipe], check=True, capture_output=True)
    return folder


def test_a_run_that_is_killed_goes_on_to_the_last_bit(folder: Path, aquila: Callable, start: Callable) -> None:
    """SIGKILL after its second checkpoint; then `aquila train RUN_DIR`."""
    whole, killed = folder / "whole", folder / "killed"
    process = start("train", write_recipe(folder, "killed.yaml", **SETTINGS, run_dir=str(killed)))
    assert any(b"step-00000010" in line for line in process.stderr)  # it tells when that one is saved
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert metrics_of_killed(killed) >= 10
    aquila("train", killed)
    assert same_part(metrics_of(killed)) == same_part(metrics_of(whole))
    assert (killed / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


def metrics_of_killed(run_dir: Path) -> int:
    """How many whole lines there are; the last one may be half-written."""
    return (run_dir / "metrics.jsonl").read_text(encoding="utf-8").count("\n")


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
    missing = aquila("train", recipe, f"data.path={folder / 'absent'}", exit_code=1).stderr
    assert b"absent.idx: no such file" in missing
    assert not (folder / "mistakes").exists()


def test_estimate_answers_whether_it_fits(aquila: Callable) -> None:
    rows = aquila("train", "estimate", "aquila-7b", "--memory", "24GiB").stdout.decode().splitlines()
    verdicts = {row.split("  ")[0].strip(): row for row in rows[2:]}
    assert "does not fit" in verdicts["full, bf16"]
    assert "does not fit" not in verdicts["LoRA r=16, bf16, full checkpointing"]


def test_two_processes_train_what_one_trains(folder: Path) -> None:
    """Real torchrun, gloo: the losses of one process to 1e-6."""
    recipe = write_recipe(folder, "two.yaml", **SETTINGS, run_dir=str(folder / "two"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, "-m", "aquila", "train", recipe], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    losses = [[record["loss"] for record in metrics_of(folder / run)] for run in ("whole", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    manifest = json.loads((folder / "two" / "checkpoints" / "step-00000020" / "manifest.json").read_bytes())
    assert manifest["world_size"] == 2
