"""What each machine is told to run, and the batch script that says the same to Slurm."""

import subprocess
from pathlib import Path

import pytest

from aquila.errors import ConfigError
from aquila.launch.hostfile import Host
from aquila.launch.preflight import Plan
from aquila.launch.slurm import batch_script
from aquila.launch.torchrun import Job, command, environment

HOSTS = (Host("10.0.0.1", 8), Host("10.0.0.2", 4, user="me", port=2222))


def options(hosts: tuple[Host, ...], node: int) -> dict[str, str]:
    plan = Plan(hosts, "python", Path("/project"), Path("/shared/run"))
    words = command(plan, Job(["aquila", "train", "/shared/run"], 29500, "exp-1", max_restarts=5), node)
    assert words[:3] == ["python", "-m", "torch.distributed.run"]
    assert words[-4:] == ["-m", "aquila", "train", "/shared/run"]
    return dict(zip(words[3:-4:2], words[4:-4:2], strict=True))


def test_every_machine_is_told_its_place():
    first, second = options(HOSTS, 0), options(HOSTS, 1)
    assert first["--rdzv-endpoint"] == second["--rdzv-endpoint"] == "10.0.0.1:29500"
    assert (first["--nproc-per-node"], second["--nproc-per-node"]) == ("8", "4")
    assert (first["--node-rank"], second["--node-rank"]) == ("0", "1")
    assert (first["--local-addr"], second["--local-addr"]) == ("10.0.0.1", "10.0.0.2")
    assert (first["--rdzv-conf"], second["--rdzv-conf"]) == ("is_host=true", "is_host=false")
    assert first["--nnodes"] == "2"
    assert first["--max-restarts"] == "5"


def test_one_machine_meets_itself_on_loopback():
    """Whatever its name in the hostfile is: a laptop's often leads nowhere."""
    only = options((Host("my-laptop", 2),), 0)
    assert only["--rdzv-endpoint"] == "127.0.0.1:29500"
    assert only["--local-addr"] == "127.0.0.1"


def test_the_cores_are_shared_out():
    assert environment(Host("a", 8), 64, {})["OMP_NUM_THREADS"] == "8"
    assert environment(Host("a", 8), 4, {})["OMP_NUM_THREADS"] == "1"
    assert environment(Host("a", 8), 64, {"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"


def test_a_batch_script_that_a_shell_can_read():
    plan = Plan((Host("a", 8), Host("b", 8)), "/opt/py thon", Path("/the project"), Path("/shared/run"))
    text = batch_script(plan, ["aquila", "train", "/shared/run"], name="exp", max_restarts=3)
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=True).stderr == ""
    assert "#SBATCH --nodes=2\n" in text
    assert "#SBATCH --gpus-per-node=8\n" in text
    assert "#SBATCH --signal=TERM@300\n" in text
    assert "cd '/the project' || exit 1" in text
    assert "'/opt/py thon' -m torch.distributed.run" in text
    assert text.endswith("--max-restarts 3 -m aquila train /shared/run\n")


def test_slurm_wants_machines_that_are_alike():
    plan = Plan(HOSTS, "python", Path("/project"), Path("/shared/run"))
    with pytest.raises(ConfigError, match=r"machines with 4, 8 slots; a Slurm job has as many on each"):
        batch_script(plan, [], name="exp", max_restarts=3)
