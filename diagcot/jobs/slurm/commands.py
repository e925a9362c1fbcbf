"""Every call of a Slurm command goes through here: with a deadline, and with one sentence when it fails."""

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diagcot.jobs.environment import variables
from diagcot.jobs.errors import SiteError
from diagcot.jobs.owners import distrust

TIMEOUT_S = 60
REQUEUES_EARLY = (24, 11)  # measured on 22.05.8 and 24.11.5
FORGETS = (26, 5)  # SchedMD's ticket 25682
# Parts of the messages of a command that did not reach slurmctld, or not for certain.
# Parts of what Slurm's commands say when slurmctld is away or going away (slurm_errno.c of SchedMD/slurm).
TRANSIENT = (
    *("timed out", "no answer", "unable to contact", "connection", "temporarily", "communication", "missing socket"),
    *("zero bytes were", "header lengths", "message send failure", "message receive failure", "standby mode"),
)
UNREACHABLE = (*TRANSIENT, "connect failure", "configuration source")


class SlurmError(SiteError):
    """A Slurm command failed, timed out or is not installed."""


def available() -> bool:
    """Whether Slurm's commands are on PATH."""
    return shutil.which("sbatch") is not None


def run(*command: str, timeout: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Run a Slurm command, whatever its exit status. Raises SlurmError if it is missing or does not end in time."""
    env = variables.outside_job(os.environ)  # we may run in a job ourselves: a finaliser, a shell of salloc
    if why := distrust(Path(env["SLURM_CONF"])) if env.get("SLURM_CONF") else "":  # it names code that is loaded
        raise SlurmError(f"SLURM_CONF={env['SLURM_CONF']} is not used, because {why}")
    try:
        # Comments of a site and names of jobs may be in any encoding.
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout, env=env, check=False
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not on PATH: load your site's Slurm, or use CLUSTER=laptop") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(
            f"{command[0]} gave no answer within {timeout:.0f} s: is slurmctld up? (scontrol ping)"
        ) from error


def call(*command: str, timeout: float = TIMEOUT_S) -> str:
    """Run a Slurm command and return its standard output. Raises SlurmError if it fails."""
    done = run(*command, timeout=timeout)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise SlurmError(f"{command[0]} failed: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return "".join(line for line in done.stdout.splitlines(True) if not line.startswith("CLUSTER: "))


def _of_cluster() -> list[str]:
    """The option that names the cluster, for sacct, which reads no variable."""
    name = variables.outside_job(os.environ).get(variables.CLUSTERS[0])
    return ["-M", name] if name else []


def answer(*command: str, timeout: float = TIMEOUT_S) -> str:
    """What a command prints, also when Slurm refuses the request. Raises SlurmError if slurmctld did not answer."""
    done = run(*command, timeout=timeout)
    text = (done.stderr + done.stdout).strip()
    if done.returncode and any(word in text.lower() for word in UNREACHABLE):
        raise SlurmError(f"{command[0]} failed: {text.splitlines()[-1]}")
    return text


def transient(error: str) -> bool:
    """True if Slurm may accept the same request later, or may have accepted it already."""
    return any(word in error.lower() for word in TRANSIENT)


def version() -> tuple[int, ...]:
    """The version of Slurm's commands here, such as (24, 11, 5); empty if it is not known."""
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", call("scontrol", "--version"))
    return tuple(map(int, found.groups())) if found else ()


def requeues_what_ends_early() -> bool:
    """Whether Slurm requeues a job by itself that ends between the announcement of its preemption and the end of GraceTime.

    22.05 takes such a job for done, so it has to wait for its end; 24.11 requeues it, and a job that waits a second time.
    """
    return version() >= REQUEUES_EARLY


def requeues_what_ended_well() -> bool:
    """Whether Slurm requeues a job that was killed at the end of its GraceTime again, after its next execution has ended well.

    Since it requeues what ends early it keeps a mark on the job, which until 26.05 outlives the requeue at the end of GraceTime.
    """
    return REQUEUES_EARLY <= version() < FORGETS


def user() -> str:
    """The name by which Slurm knows this user. $USER may be unset or wrong in a container or a job."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


@dataclass(frozen=True)
class Job:
    """One row of squeue or sacct. `id` is `<job>` or `<array>_<index>`."""

    id: str
    state: str
    reason: str = ""
    name: str = ""
    nodes: str = ""
    exit: str = ""  # `code:signal` of a job that has ended
    partition: str = ""  # or several, separated by commas, of a job that waits
    qos: str = ""
    account: str = ""


def queue(timeout: float = TIMEOUT_S) -> list[Job]:
    """This user's queued and running jobs, one row for each array task."""
    text = call("squeue", "-r", "-h", "-u", user(), "-o", "%i|%T|%r|%j|%P|%q|%a", timeout=timeout)
    rows = [row.split("|") for row in text.splitlines() if row.count("|") >= 3]
    return [Job(*row[:4], **dict(zip(("partition", "qos", "account"), row[4:], strict=False))) for row in rows]


def history(job_ids: Sequence[str], timeout: float = TIMEOUT_S) -> dict[str, Job]:
    """Last known state of jobs, by id, from accounting. Raises SlurmError where there is no accounting.

    Ids may be reused: compare the names. Slurm calls a job FAILED whose step ran out of memory; here it is
    OUT_OF_MEMORY.
    """
    if not job_ids:
        return {}
    columns = "JobID,State,Reason,JobName,NodeList,ExitCode"
    # The start is explicit because sacct's default is the last midnight.
    query = ("sacct", *_of_cluster(), "-n", "-P", "-S", "now-30days", "-j", ",".join(job_ids), "-o", columns)
    text = call(*query, timeout=timeout)
    jobs: dict[str, Job] = {}
    for row in text.splitlines():
        fields = row.split("|")
        job, dot, _ = fields[0].partition(".")
        if dot and fields[1:2] == ["OUT_OF_MEMORY"] and job in jobs and jobs[job].state == "FAILED":
            jobs[job] = replace(jobs[job], state="OUT_OF_MEMORY")
        elif not dot and len(fields) == 6 and fields[1]:
            jobs |= {job: Job(job, _state(fields[1]), *fields[2:]) for job in _array_tasks(fields[0])}
    return jobs


def _array_tasks(job_id: str) -> list[str]:
    """The ids that a row of sacct stands for: array tasks that never started share one, such as `7_[0-2,5%4]`."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job_id)
    if match is None:
        return [job_id]
    bounds = [[int(bound) for bound in part.split("-")] for part in match[2].split(",")]
    return [f"{match[1]}_{index}" for part in bounds for index in range(part[0], part[-1] + 1)]


def _state(text: str) -> str:
    """Slurm's state. A job that Slurm itself cancelled, because its dependency can never be met, is DEPENDENCY.

    A person's cancellation reads `CANCELLED by 1000`.
    """
    return "DEPENDENCY" if text == "CANCELLED" else text.split(maxsplit=1)[0]


def alive(names: Mapping[str, str]) -> set[str]:
    """Which of these jobs or arrays are still queued or running. names: id -> name, empty if any name will do."""
    if not names:
        return set()
    try:
        text = call("squeue", "-h", "-j", ",".join(names), "-o", "%A|%F|%j")
    except SlurmError as error:
        if "Invalid job id" in str(error):  # squeue's answer when it has forgotten the only job asked for
            return set()
        raise
    known = {}
    for row in text.splitlines():
        single, array, name = row.strip().split("|", 2)
        known[single] = known[array] = name
    return {job for job, name in names.items() if job in known and name in ("", known[job])}


def named(name: str) -> list[str]:
    """Ids of the jobs or arrays of that name, oldest first: queued and running ones, else ended ones."""
    queued = ("squeue", "-h", "-u", user(), "-n", name, "-o", "%F")
    # slurmctld knows a job for some minutes after its end; accounting may hear of it later than that.
    jobs = call(*queued).split() or call(*queued, "-t", "all").split()
    if not jobs:
        try:
            query = ("sacct", *_of_cluster(), "-X", "-n", "-P", "-S", "now-2days", f"--name={name}", "-o", "JobID")
            rows = call(*query).split()
            jobs = [row.split("_")[0] for row in rows]
        except SlurmError:
            pass
    return sorted(set(jobs), key=int)


def requeue(job_id: str) -> None:
    """Put an array task back into the queue. Name it `<array>_<index>`: a plain id may mean the whole array."""
    call("scontrol", "requeue", job_id)


def never_requeue(job_id: str) -> None:
    """Do not put a job into the queue again by itself, whatever it ends by."""
    call("scontrol", "update", f"JobId={job_id}", "Requeue=0")


def requeue_held(job_id: str) -> None:
    """Put a running job back into the queue, where it is held until it is released or cancelled."""
    call("scontrol", "requeuehold", job_id)


def depend(job_id: str, old: str, new: Sequence[str]) -> bool:
    """Let a pending job follow `new` (such as `afterok:12`) instead of job `old`; False if it never followed `old`.

    Other dependencies are kept. With an empty `old`, `new` is added.
    """
    try:
        text = call("scontrol", "show", "job", "-o", job_id)
    except SlurmError as error:
        if "Invalid job id" in str(error):  # forgotten: it ended long ago
            return False
        raise
    match = re.search(r"\bDependency=(\S+)", text)
    parts = [part.split("(")[0] for part in re.split("[,?]", match.group(1))] if match else []
    parts = [part for part in parts if part]  # `(null)` where it follows nothing
    kept = [part for part in parts if part.rsplit(":", 1)[-1].partition("_")[0] != old]
    if old and len(kept) == len(parts):
        return False
    call("scontrol", "update", f"JobId={job_id}", f"Dependency={','.join([*kept, *new])}")
    return True


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs, arrays or array tasks."""
    if job_ids:
        call("scancel", *job_ids)


def show(what: str, *names: str, timeout: float = TIMEOUT_S) -> list[dict[str, str]]:
    """Records of `scontrol show WHAT -o`, such as job or partition, each as a mapping.

    A value ends at the first space: texts of people, such as comments, are not whole.
    """
    text = call("scontrol", "show", what, *names, "-o", timeout=timeout)
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines() if "=" in line]


def config(timeout: float = TIMEOUT_S) -> dict[str, str]:
    """`scontrol show config` as a mapping."""
    rows = (
        line.split("=", 1) for line in call("scontrol", "show", "config", timeout=timeout).splitlines() if "=" in line
    )
    return {key.strip(): value.strip() for key, value in rows}


def release(job_id: str) -> bool:
    """Release a held job; False if it has ended, as one that was cancelled and keeps its reason while its node cleans up."""
    try:
        call("scontrol", "release", job_id)
    except SlurmError as error:
        if "already finished" in str(error) or "Invalid job id" in str(error):
            return False
        raise
    return True
