"""Who this process is among the processes of its job: submitit's variables on a laptop, Slurm's on a cluster."""

import os
import subprocess
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from diagcot.jobs.slurm.hostlist import hostnames


@dataclass(frozen=True)
class Ranks:
    """The place of this process in its job."""

    job: str  # job id, `<array>_<index>` in an array
    restarts: int
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node_rank: int
    nodes: int
    master_addr: str
    task: str = (
        ""  # distinguishes executions of one attempt: several stages on a laptop, several clusters on one machine
    )

    @property
    def attempt(self) -> str:
        """The token of this execution: the same on all ranks, new after each requeue."""
        return f"{self.job}-{self.restarts}"

    @property
    def master_port(self) -> int:
        """A port of this execution alone, below the ephemeral range."""
        return 15000 + zlib.crc32(f"{self.attempt}{self.task}".encode()) % 15000

    def export(self) -> None:
        """Set the variables that torch.distributed and DeepSpeed read."""
        os.environ.update(
            MASTER_ADDR=self.master_addr if self.nodes == 1 else address(self.master_addr),
            MASTER_PORT=str(self.master_port),
            RANK=str(self.rank),
            WORLD_SIZE=str(self.world_size),
            LOCAL_RANK=str(self.local_rank),
            LOCAL_SIZE=str(self.local_world_size),
            LOCAL_WORLD_SIZE=str(self.local_world_size),
        )


def from_environment(env: Mapping[str, str] = os.environ) -> Ranks:
    """The ranks that submitit or Slurm put into the environment; a single rank if there are none."""
    if "SUBMITIT_LOCAL_JOB_ID" in env:
        size = int(env["SUBMITIT_LOCAL_NTASKS"])
        rank = int(env["SUBMITIT_LOCAL_GLOBALID"])
        token = env.get("DIAGCOT_ATTEMPT", env["SUBMITIT_LOCAL_JOB_ID"])
        return Ranks(token, 0, rank, size, int(env["SUBMITIT_LOCAL_LOCALID"]), size, 0, 1, "127.0.0.1")
    if "SLURM_JOB_ID" in env:
        job = env["SLURM_JOB_ID"]
        if "SLURM_ARRAY_JOB_ID" in env:
            job = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
        if "SLURM_STEP_ID" not in env:  # a shell in an allocation, whose size is not that of this one process
            return Ranks(job, int(env.get("SLURM_RESTART_COUNT", 0)), 0, 1, 0, 1, 0, 1, "127.0.0.1")
        size, nodes = (
            int(env.get("SLURM_STEP_NUM_TASKS", 1)),
            int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", 1))),
        )
        return Ranks(
            job=job,
            restarts=int(env.get("SLURM_RESTART_COUNT", 0)),
            rank=int(env.get("SLURM_PROCID", 0)),
            world_size=size,
            local_rank=int(env.get("SLURM_LOCALID", 0)),
            local_world_size=max(1, size // nodes),
            node_rank=int(env.get("SLURM_NODEID", 0)),
            nodes=nodes,
            master_addr=hostnames(env.get("SLURM_STEP_NODELIST", env.get("SLURM_JOB_NODELIST", "localhost")))[0],
        )
    # Process ids are used again, and no execution may write to the log of an earlier one.
    return Ranks(f"hand-{os.getpid()}x{time.time_ns() // 1_000_000:x}", 0, 0, 1, 0, 1, 0, 1, "127.0.0.1")


def address(host: str) -> str:
    """The numeric address of `host` as this node resolves it, or the name if it does not."""
    addresses = subprocess.run(["getent", "ahostsv4", host], capture_output=True, text=True, check=False).stdout.split()
    return addresses[0] if addresses else host
