"""The only door to Slurm's commands. Every call has a deadline; a command that fails says so in one sentence."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from diagcot.jobs.errors import UserError

TIMEOUT_S = 60


class SlurmError(UserError):
    """A Slurm command failed, timed out or is not there."""


def available() -> bool:
    return shutil.which("sbatch") is not None


def call(*command: str, timeout: float = TIMEOUT_S) -> str:
    """Run a Slurm command and return its standard output. Raises SlurmError."""
    # SLURM_* variables of the job that we may run in must not shape a query or a new job.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_")) or k == "SLURM_CONF"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, check=False)
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not on PATH: load your site's Slurm, or use CLUSTER=laptop") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(
            f"{command[0]} gave no answer within {timeout:.0f} s: is slurmctld up? (scontrol ping)"
        ) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise SlurmError(f"{command[0]} failed: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout


@dataclass(frozen=True)
class Job:
    """One row of squeue or sacct. `id` is `<job>` or `<array>_<index>`."""

    id: str
    state: str
    reason: str = ""
    name: str = ""
    nodes: str = ""


def queue(timeout: float = TIMEOUT_S) -> list[Job]:
    """This user's jobs that are queued or running, one row an array element (squeue -r)."""
    user = os.environ.get("USER") or str(os.getuid())
    text = call("squeue", "-r", "-h", "-u", user, "-o", "%i|%T|%r|%j", timeout=timeout)
    return [Job(*row.split("|", 3)) for row in text.splitlines() if row.count("|") >= 3]


def history(job_ids: Sequence[str], timeout: float = TIMEOUT_S) -> dict[str, Job]:
    """Last known state of jobs by id from accounting. Raises SlurmError where there is no accounting."""
    if not job_ids:
        return {}
    columns = "JobID,State,Reason,JobName,NodeList"
    text = call("sacct", "-X", "-n", "-P", "-S", "now-30days", "-j", ",".join(job_ids), "-o", columns, timeout=timeout)
    found = {}
    for row in text.splitlines():
        fields = row.split("|", 4)
        if len(fields) == 5:
            found[fields[0]] = Job(fields[0], _state(fields[1]), *fields[2:])
    return found


def _state(text: str) -> str:
    """Slurm's own cancelling (a dependency that can never be met) is told from a person's, `CANCELLED by 1000`."""
    return "DEPENDENCY" if text == "CANCELLED" else text.split()[0]


def alive(job_ids: Sequence[str]) -> set[str]:
    """Which of these jobs (or arrays) still have something queued or running."""
    if not job_ids:
        return set()
    try:
        text = call("squeue", "-h", "-j", ",".join(job_ids), "-o", "%A|%F")
    except SlurmError as error:
        if "Invalid job id" in str(error):  # squeue's answer when it has forgotten the only job asked for
            return set()
        raise
    known = {part for row in text.splitlines() for part in row.strip().split("|")}
    return {job for job in job_ids if job in known}


def requeue(job_id: str) -> None:
    """Put this element back into the queue, named `<array>_<index>`: a placeholder's plain id means the whole array."""
    call("scontrol", "requeue", job_id)


def depend(job_id: str, dependency: str) -> None:
    """Replace the dependency of a pending job."""
    call("scontrol", "update", f"JobId={job_id}", f"Dependency={dependency}")


def dependency_of(job_id: str) -> str:
    """The dependency of a job as scontrol prints it, `(null)` where it has none; empty for a job that is forgotten."""
    try:
        text = call("scontrol", "show", "job", "-o", job_id)
    except SlurmError:
        return ""
    found = re.search(r"\bDependency=(\S+)", text)
    return found.group(1) if found else ""


def cancel(job_ids: Sequence[str]) -> None:
    if job_ids:
        call("scancel", *job_ids)


def config() -> dict[str, str]:
    """`scontrol show config` as a mapping."""
    rows = (line.split("=", 1) for line in call("scontrol", "show", "config").splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in rows}


def max_array_size() -> int:
    """How many elements an array may have (its largest index is one less)."""
    found = config().get("MaxArraySize", "1001")
    return int(found) if re.fullmatch(r"\d+", found) else 1001
