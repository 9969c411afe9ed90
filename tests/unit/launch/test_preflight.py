"""What machines answer before a run, and the remedy for each thing that is missing."""

import os
import shlex
import socket
import sys
from pathlib import Path

import pytest

from aquila.launch.hostfile import Host
from aquila.launch.preflight import Plan, ask_all
from aquila.launch.shell import passed_environment, ssh_command
from launch_parts import local_ssh, python_with

TORCH = "__version__ = '2.13.0'\n"  # of another machine: enough to be asked for its version and devices
AQUILA = "__version__ = '1.0'\n"


def plan_of(folder: Path, *hosts: Host, python: str, port: int = 0) -> Plan:
    run_dir = folder / "run"
    run_dir.mkdir(exist_ok=True)
    return Plan(hosts, python, folder, run_dir, port)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "refused",
            "unreachable (ssh: connect to host refused port 22: Connection refused): no ssh server answers there; "
            "start sshd, or give its port as user@host:port",
        ),
        (
            "denied",
            "unreachable (me@denied: Permission denied (publickey,password).): it does not let us in; run "
            "`ssh-copy-id denied`",
        ),
        (
            "stranger",
            "unreachable (Host key verification failed.): its key is not known yet; run `ssh stranger` once "
            "and accept it",
        ),
        (
            "nowhere",
            "unreachable (ssh: Could not resolve hostname nowhere: Name or service not known): its name is not known; "
            "write its address into the hostfile",
        ),
        (
            "silent",
            "unreachable (ssh: connect to host silent port 22: Connection timed out): it does not answer; is it on, "
            "and does the network reach it?",
        ),
    ],
)
def test_machines_that_cannot_be_reached(tmp_path: Path, monkeypatch, name: str, problem: str):
    local_ssh(tmp_path / "bin", monkeypatch)
    head = Host("127.0.0.1", 1)
    python = python_with(tmp_path, torch=TORCH, aquila=AQUILA)
    good, bad = ask_all(plan_of(tmp_path, head, Host(name, 1), python=python))
    assert good.problems == ()
    assert bad.problems == (problem,)


def test_ssh_may_not_ask_and_gets_user_and_port(tmp_path: Path, monkeypatch):
    calls = local_ssh(tmp_path / "bin", monkeypatch)
    python = python_with(tmp_path, torch=TORCH, aquila=AQUILA)
    (report,) = ask_all(plan_of(tmp_path, Host("127.0.0.1", 1, user="me", port=2222), python=python))
    assert report.problems == ()
    call = calls.read_text(encoding="utf-8")
    assert "-o BatchMode=yes -o ConnectTimeout=10" in call
    assert f"-p 2222 -- me@127.0.0.1 cd {tmp_path} && exec env" in call


def test_a_machine_without_the_package(tmp_path: Path, monkeypatch):
    local_ssh(tmp_path / "bin", monkeypatch)
    python = python_with(tmp_path)
    (report,) = ask_all(plan_of(tmp_path, Host("127.0.0.1", 1, port=22), python=python))
    aquila, torch = report.problems
    assert aquila.startswith("aquila cannot be imported (ModuleNotFoundError: No module named 'aquila'); run there: ")
    assert aquila.endswith(f"{python} -m pip install aquila-lm")
    assert torch.endswith("-m pip install torch")


def test_a_machine_without_python_there(tmp_path: Path, monkeypatch):
    local_ssh(tmp_path / "bin", monkeypatch)
    (report,) = ask_all(plan_of(tmp_path, Host("127.0.0.1", 1, port=22), python="/opt/nothing/python"))
    assert report.problems == (
        "has no /opt/nothing/python; install Python and the package there at the same path, or name another with "
        "--python",
    )


def test_a_machine_with_other_versions(tmp_path: Path, monkeypatch):
    """Both answer through one file that tells them apart by how they were called."""
    local_ssh(tmp_path / "bin", monkeypatch)
    torch = "import os\n__version__ = '2.12.0' if 'NODE_B' in os.environ else '2.13.0'\n"
    python = Path(python_with(tmp_path, torch=torch, aquila=AQUILA))
    ssh = tmp_path / "bin" / "ssh"
    ssh.write_text(ssh.read_text(encoding="utf-8").replace("exec sh", "NODE_B=1 exec sh"), encoding="utf-8")
    head, other = Host("127.0.0.1", 1), Host("127.0.0.1", 1, port=22)
    good, bad = ask_all(plan_of(tmp_path, head, other, python=str(python)))
    assert good.problems == ()
    assert bad.problems == (f"torch is 2.12.0, the head has 2.13.0; run there: {python} -m pip install torch==2.13.0",)


def test_more_slots_than_devices(tmp_path: Path):
    python = python_with(tmp_path, torch=TORCH, aquila=AQUILA)
    cores = len(os.sched_getaffinity(0))
    (report,) = ask_all(plan_of(tmp_path, Host("localhost", cores + 1), python=python))
    assert report.problems == (
        f"slots={cores + 1}, but it has {cores} CPU cores and no accelerator that torch sees; write slots={cores} into "
        "the hostfile",
    )


def test_devices_are_counted_where_there_are_any(tmp_path: Path):
    torch = (
        "__version__ = '2.13.0'\nclass accelerator:\n"
        "    is_available = staticmethod(lambda: True)\n    device_count = staticmethod(lambda: 4)\n"
        "    current_accelerator = staticmethod(lambda: type('Device', (), {'type': 'cuda'}))\n"
    )
    python = python_with(tmp_path, torch=torch, aquila=AQUILA)
    (report,) = ask_all(plan_of(tmp_path, Host("localhost", 8), python=python))
    assert report.problems == ("slots=8, but it has 4 accelerators; write slots=4 into the hostfile",)
    assert report.facts["bf16"] is True


def test_a_port_in_use(tmp_path: Path):
    python = python_with(tmp_path, torch=TORCH, aquila=AQUILA)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (report,) = ask_all(plan_of(tmp_path, Host("localhost", 1), python=python, port=port))
    assert report.problems == (f"port {port} is in use (Address already in use); leave out --port, or choose another",)


def test_a_folder_that_is_not_shared(tmp_path: Path, monkeypatch):
    """The other machine sees the project, but its folder of runs is another one."""
    local_ssh(tmp_path / "bin", monkeypatch)
    python = python_with(tmp_path, torch=TORCH, aquila=AQUILA)
    plan = plan_of(tmp_path, Host("127.0.0.1", 1), Host("127.0.0.1", 1, port=22), python=python)
    ssh = tmp_path / "bin" / "ssh"
    elsewhere = f"""exec sh -c "$(printf '%s' "$*" | sed s#{plan.run_dir}#{tmp_path}/other#g)\""""
    ssh.write_text(ssh.read_text(encoding="utf-8").replace('exec sh -c "$*"', elsewhere), encoding="utf-8")
    _, bad = ask_all(plan)
    assert bad.problems == (
        f"does not see {plan.run_dir}; put it on a file system that all machines share (--out FOLDER)",
    )
    assert list(plan.run_dir.iterdir()) == []


def test_a_project_folder_that_is_not_there(tmp_path: Path, monkeypatch):
    local_ssh(tmp_path / "bin", monkeypatch)
    plan = plan_of(tmp_path, Host("127.0.0.1", 1, port=22), python=sys.executable)
    absent = Plan(plan.hosts, plan.python, tmp_path / "absent", plan.run_dir)
    (report,) = ask_all(absent)
    assert report.problems == (
        f"has no folder {absent.folder}; mount or copy the project there, at the same path on every machine",
    )


def test_credentials_stay_here(monkeypatch):
    for name in ("NCCL_DEBUG", "CUDA_VISIBLE_DEVICES", "WANDB_API_KEY", "HF_TOKEN", "NCCL_SECRET", "PATH"):
        monkeypatch.setenv(name, "x")
    passed = passed_environment({"NAMED": "1"})
    assert {"NCCL_DEBUG", "CUDA_VISIBLE_DEVICES", "NAMED"} <= passed.keys()
    assert not {"WANDB_API_KEY", "HF_TOKEN", "NCCL_SECRET", "PATH"} & passed.keys()


def test_words_with_spaces_reach_the_other_side_whole():
    line = ssh_command(Host("node", 1), ["echo", "a b", "$HOME"], Path("/the folder"), {"X": "1 2"})[-1]
    assert shlex.split(line) == ["cd", "/the folder", "&&", "exec", "env", "X=1 2", "echo", "a b", "$HOME"]
