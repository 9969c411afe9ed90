"""A batch script for Slurm that starts the same run: `aquila launch ... --slurm > run.sbatch; sbatch run.sbatch`."""

import shlex
from collections.abc import Sequence

from aquila.errors import ConfigError
from aquila.launch.preflight import Plan

DEFAULT_PORT = 29400  # of torchrun
_WARNING_SECONDS = 300


def batch_script(plan: Plan, arguments: Sequence[str], *, name: str, max_restarts: int) -> str:
    """The text of the script. Slurm chooses the machines; the hostfile says how many, and their devices.

    Args:
        plan: machines, Python, folders.
        arguments: what follows `python -m`.
        name: of the job.
        max_restarts: how often torchrun starts a failed run again.

    Raises:
        ConfigError: the machines have different numbers of devices.
    """
    slots = {host.slots for host in plan.hosts}
    if len(slots) > 1:
        raise ConfigError(
            f"the hostfile has machines with {', '.join(map(str, sorted(slots)))} slots; a Slurm job has as many on "
            "each: write one hostfile for each kind"
        )
    port, devices = plan.port or DEFAULT_PORT, slots.pop()
    words = " ".join(shlex.quote(word) for word in arguments)
    return f"""#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={len(plan.hosts)}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={devices}
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={plan.run_dir}/slurm-%j.log
#SBATCH --signal=TERM@{_WARNING_SECONDS}
# {_WARNING_SECONDS} s before the time limit every rank finishes its step and saves.
# Submit this script again, or let Slurm requeue it: the run goes on from its last checkpoint.

cd {shlex.quote(str(plan.folder))} || exit 1
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export PYTHONUNBUFFERED=1 TORCH_ELASTIC_SHUTDOWN_TIMEOUT={_WARNING_SECONDS - 30}
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-8}}"

exec srun --kill-on-bad-exit=1 {shlex.quote(plan.python)} -m torch.distributed.run \\
    --nnodes "$SLURM_NNODES" --nproc-per-node {devices} \\
    --rdzv-backend c10d --rdzv-endpoint "$head:{port}" --rdzv-id "$SLURM_JOB_ID" \\
    --max-restarts {max_restarts} -m {words}
"""
