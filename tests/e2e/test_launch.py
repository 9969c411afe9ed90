"""`aquila launch` as it is typed: two machines that are this one, a rank that is killed, a run that goes on."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from aquila.checkpoint.run_folder import RunFolder
from aquila.launch.node import descendants
from launch_parts import local_ssh
from run_parts import has_step, losses, tiny_run, train

pytestmark = pytest.mark.e2e
STEPS = 150
TWO = "# two machines that are one\n\n127.0.0.1 slots=1\nme@127.0.0.1:2202 slots=1"  # no newline at the end


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny recipe of 150 steps."""
    return (
        tiny_run(tmp_path_factory.mktemp("launch") / "template", train__steps=STEPS, save__save_interval=25)
        / "recipe.yaml"
    )


@pytest.fixture
def hostfile(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "hostfile"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def wait_for(process: subprocess.Popen[bytes], seen: Callable[[], bool]) -> None:
    while not seen():
        assert process.poll() is None, process.communicate()[0].decode()
        try:
            process.wait(0.005)
        except subprocess.TimeoutExpired:
            continue


def rank_process(below: int, rank: int) -> int:
    """The process that trains as a rank, found below the launcher."""
    for pid in descendants(below):
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"RANK=%d" % rank in words:
            return pid
    raise AssertionError(f"no rank {rank} below {below}")


def test_a_killed_rank_and_a_stop_change_nothing(
    tmp_path: Path, recipe: Path, hostfile, aquila_script: str, monkeypatch
):
    """One machine here, one by ssh. SIGKILL to a rank: torchrun starts all again. SIGTERM: all save and stop."""
    calls = local_ssh(tmp_path / "bin", monkeypatch)
    monkeypatch.chdir(tmp_path)
    options = ["--env", "OMP_NUM_THREADS=1", "save.keep_last=9"]
    launcher = subprocess.Popen(
        [aquila_script, "launch", hostfile(TWO), recipe, "--out", "runs", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    run_dir: list[Path] = []
    wait_for(launcher, lambda: bool(run_dir.extend(tmp_path.glob("runs/recipe/*")) or run_dir))
    folder = run_dir[0]
    wait_for(launcher, lambda: has_step(folder, 30))
    os.kill(rank_process(launcher.pid, 1), signal.SIGKILL)
    wait_for(launcher, lambda: has_step(folder, 60))
    launcher.terminate()
    output = launcher.communicate(timeout=100)[0].decode()
    assert launcher.returncode == 75, output
    lines = output.splitlines()
    assert "NODES_NUM 2" in lines
    log_file = next(line.removeprefix("LOGFILE ") for line in lines if line.startswith("LOGFILE "))
    assert Path(log_file).parent == folder
    kept = Path(log_file).read_text(encoding="utf-8").splitlines()
    own = [line for line in lines if line.startswith("[127.0.0.1:0] ")]
    assert own == [line for line in kept if line.startswith("[127.0.0.1:0] ")]
    assert any("step 30/150" in line for line in own)
    assert any(line.startswith("[me@127.0.0.1:2202:agent] ") for line in kept)
    assert "-p 2202" in calls.read_text(encoding="utf-8")
    stopped_at = RunFolder(folder).steps()[0]
    assert 60 <= stopped_at < STEPS
    assert train(folder, 2) == [0, 0]
    reference = tiny_run(tmp_path / "reference", train__steps=STEPS, save__save_interval=25)
    assert train(reference, 2) == [0, 0]
    assert losses(folder) == losses(reference)


def test_a_batch_script_for_slurm(recipe: Path, hostfile, aquila, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = aquila("launch", hostfile("a slots=8\nb slots=8\n"), recipe, "tiny", "mine", "--slurm").stdout.decode()
    (folder,) = tmp_path.glob("checkpoints_out/mine/*")
    assert script.startswith("#!/bin/bash\n#SBATCH --job-name=mine\n#SBATCH --nodes=2\n")
    assert f"-m aquila train {folder}\n" in script
    assert (folder / "hostfile").is_file()
    again = aquila("launch", hostfile("a slots=4\n"), folder, "log.log_interval=5", "--slurm").stdout.decode()
    assert f"--max-restarts 3 -m aquila train {folder} log.log_interval=5\n" in again
    assert list(tmp_path.glob("checkpoints_out/mine/*")) == [folder]


def test_machines_that_are_not_ready_leave_nothing_behind(recipe: Path, hostfile, aquila, tmp_path: Path, monkeypatch):
    local_ssh(tmp_path / "bin", monkeypatch)
    monkeypatch.chdir(tmp_path)
    done = aquila("launch", hostfile("refused slots=1\ndenied slots=1"), recipe, exit_code=1)
    message = done.stderr.decode()
    assert (
        "refused: unreachable (ssh: connect to host refused port 22: Connection refused): no ssh server answers"
        in message
    )
    assert message.splitlines()[-1].startswith("error: denied: unreachable ")
    assert message.endswith("run `ssh-copy-id denied` (2 of 2 machines are not ready, see above)\n")
    assert not (tmp_path / "checkpoints_out").exists()


@pytest.mark.parametrize(
    ("hosts", "words", "message"),
    [
        ("a slots=none", [], "hostfile:1: slots=none is not a number of devices"),
        ("a slots=8", ["tiny", "exp", "more"], "'more' is one word too many"),
        ("a slots=8", ["train.stepz=8"], "train.stepz: unknown key; did you mean 'steps'?"),
        ("a slots=8", ["--env", "NOT-A-NAME=1"], "--env 'NOT-A-NAME=1' is not a variable"),
        ("a slots=8\nb slots=4", ["--slurm"], "machines with 4, 8 slots; a Slurm job has as many on each"),
        ("a slots=3", [], "train.global_batch_size: 4 sequences cannot be shared equally by 3"),
    ],
)
def test_wrong_usage(
    recipe: Path, hostfile, aquila, tmp_path: Path, monkeypatch, hosts: str, words: list[str], message: str
):
    monkeypatch.chdir(tmp_path)
    done = aquila("launch", hostfile(hosts), recipe, *words, exit_code=2)
    assert message in done.stderr.decode()
    assert not (tmp_path / "checkpoints_out").exists()


def test_the_yaml_of_the_original(hostfile, aquila, tmp_path: Path, monkeypatch):
    """Each key is explained, the translated recipe is kept beside the file it came from."""
    monkeypatch.chdir(tmp_path)
    original = tmp_path / "Aquila-chat.yaml"
    text = "batch_size: 1\nlr: 3.0e-4\nwarm_up: 0.01\nlora: True\nenable_sft_dataset_file: a.jsonl\n"
    original.write_text(text, encoding="utf-8")
    done = aquila("launch", hostfile("a slots=8"), original, "aquilachat-7b", "exp", "--slurm")
    lines = done.stderr.decode().splitlines()
    assert "batch_size: 1 -> train.micro_batch_size: 1 (sequences on each device)" in lines
    (folder,) = tmp_path.glob("checkpoints_out/exp/*")
    assert done.stdout.decode().endswith(f"-m aquila train {folder} parallel.precision=bf16\n")
    assert any(line.startswith("fp16: not in the file -> parallel.precision: bf16") for line in lines)
    assert (folder / "Aquila-chat.yaml").read_text(encoding="utf-8") == text
    assert "stage: sft" in (folder / "recipe.yaml").read_text(encoding="utf-8")
    original.write_text("lr: 1.0e-5\n", encoding="utf-8")
    done = aquila("launch", hostfile("a slots=8"), original, "aquila-7b", exit_code=2)
    assert "does not say what to train on, the original's scripts had that in their code" in done.stderr.decode()
    original.write_text(text + "warmup: 0.1\n", encoding="utf-8")
    done = aquila("launch", hostfile("a slots=8"), original, "aquilachat-7b", exit_code=2)
    assert "'warmup' is not a key of the original's files; did you mean 'warm_up'?" in done.stderr.decode()
