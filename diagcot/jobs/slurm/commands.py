"""The only door to Slurm's commands. Every call has a deadline; a command that fails says so in one sentence."""

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diagcot.jobs.errors import UserError
from diagcot.jobs.owners import distrust

TIMEOUT_S = 60
UNLIMITED = 1 << 40
AWAY = (
    "unable to contact",
    "connection refused",
    "connect failure",
    "timed out",
    "communication",
    "configuration source",
)


class SlurmError(UserError):
    """A Slurm command failed, timed out or is not there."""


def available() -> bool:
    return shutil.which("sbatch") is not None


def call(*command: str, timeout: float = TIMEOUT_S) -> str:
    """Run a Slurm command and return its standard output. Raises SlurmError."""
    done = _run(command, timeout)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise SlurmError(f"{command[0]} failed: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout


def said(*command: str, timeout: float = TIMEOUT_S) -> str:
    """What a Slurm command says, also of a request that it refuses. Raises SlurmError if slurmctld gave no answer."""
    done = _run(command, timeout)
    text = (done.stderr + done.stdout).strip()
    if done.returncode and any(word in text.lower() for word in AWAY):
        raise SlurmError(f"{command[0]} failed: {text.splitlines()[-1]}")
    return text


def _run(command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    # SLURM_* variables of the job that we may run in must not shape a query or a new job.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_")) or k == "SLURM_CONF"}
    if why := distrust(Path(env["SLURM_CONF"])) if env.get("SLURM_CONF") else "":  # it names code that is loaded
        raise SlurmError(f"SLURM_CONF={env['SLURM_CONF']} is not used, because {why}")
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, check=False)
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not on PATH: load your site's Slurm, or use CLUSTER=laptop") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(
            f"{command[0]} gave no answer within {timeout:.0f} s: is slurmctld up? (scontrol ping)"
        ) from error


def _user() -> str:
    """The name that Slurm knows this user by; $USER may be unset in a container or a job, or another's."""
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


def queue(timeout: float = TIMEOUT_S) -> list[Job]:
    """This user's jobs that are queued or running, one row an array element (squeue -r)."""
    user = _user()
    text = call("squeue", "-r", "-h", "-u", user, "-o", "%i|%T|%r|%j", timeout=timeout)
    return [Job(*row.split("|", 3)) for row in text.splitlines() if row.count("|") >= 3]


def history(job_ids: Sequence[str], timeout: float = TIMEOUT_S) -> dict[str, Job]:
    """Last known state of jobs by id from accounting. Raises SlurmError where there is no accounting.

    A start is given in so many words: sacct's own default is midnight. Ids may be reused: compare the names. Slurm calls
    a job FAILED whose step ran out of memory; here it is OUT_OF_MEMORY.
    """
    if not job_ids:
        return {}
    columns = "JobID,State,Reason,JobName,NodeList,ExitCode"
    text = call("sacct", "-n", "-P", "-S", "now-30days", "-j", ",".join(job_ids), "-o", columns, timeout=timeout)
    found: dict[str, Job] = {}
    for row in text.splitlines():
        fields = row.split("|")
        job, dot, _ = fields[0].partition(".")
        if dot and fields[1:2] == ["OUT_OF_MEMORY"] and job in found and found[job].state == "FAILED":
            found[job] = replace(found[job], state="OUT_OF_MEMORY")
        elif not dot and len(fields) == 6 and fields[1]:
            found |= {job: Job(job, _state(fields[1]), *fields[2:]) for job in _elements(fields[0])}
    return found


def _elements(job_id: str) -> list[str]:
    """The ids that a row of sacct speaks of: elements which never started share one, such as `7_[0-2,5%4]`."""
    found = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job_id)
    if found is None:
        return [job_id]
    bounds = [[int(bound) for bound in part.split("-")] for part in found[2].split(",")]
    return [f"{found[1]}_{index}" for part in bounds for index in range(part[0], part[-1] + 1)]


def _state(text: str) -> str:
    """Slurm's own cancelling (a dependency that can never be met) is told from a person's, `CANCELLED by 1000`."""
    return "DEPENDENCY" if text == "CANCELLED" else text.split()[0]


def alive(names: Mapping[str, str]) -> set[str]:
    """Which of these jobs or arrays (id -> name, empty if any will do) still have something queued or running."""
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
    """Ids of the jobs or arrays of that name, oldest first: queued and running ones, else those of accounting."""
    user = _user()
    found = call("squeue", "-h", "-u", user, "-n", name, "-o", "%F").split()
    if not found:
        try:
            rows = call("sacct", "-X", "-n", "-P", "-S", "now-2days", f"--name={name}", "-o", "JobID").split()
            found = [row.split("_")[0] for row in rows]
        except SlurmError:
            pass
    return sorted(set(found), key=int)


def requeue(job_id: str) -> None:
    """Put this element back into the queue, named `<array>_<index>`: a placeholder's plain id means the whole array."""
    call("scontrol", "requeue", job_id)


def depend(job_id: str, gone: str, new: Sequence[str]) -> bool:
    """Let a pending job follow `new` (such as `afterok:12`) and no longer job `gone`; False if it never followed it.

    What else it follows is kept. With an empty `gone`, `new` is added.
    """
    try:
        text = call("scontrol", "show", "job", "-o", job_id)
    except SlurmError as error:
        if "Invalid job id" in str(error):  # forgotten: it ended long ago
            return False
        raise
    found = re.search(r"\bDependency=(\S+)", text)
    old = [part.split("(")[0] for part in re.split("[,?]", found.group(1))] if found else []
    old = [part for part in old if part]  # `(null)` where it follows nothing
    kept = [part for part in old if part.split(":")[-1].split("_")[0] != gone]
    if gone and len(kept) == len(old):
        return False
    call("scontrol", "update", f"JobId={job_id}", f"Dependency={','.join([*kept, *new])}")
    return True


def cancel(job_ids: Sequence[str]) -> None:
    if job_ids:
        call("scancel", *job_ids)


def hostnames(nodelist: str) -> list[str]:
    """The names in a host list such as `gpu[03-05,9],x1`."""
    return call("scontrol", "show", "hostnames", nodelist).split()


def config(timeout: float = TIMEOUT_S) -> dict[str, str]:
    """`scontrol show config` as a mapping."""
    rows = (
        line.split("=", 1) for line in call("scontrol", "show", "config", timeout=timeout).splitlines() if "=" in line
    )
    return {key.strip(): value.strip() for key, value in rows}


def release(job_id: str) -> None:
    """Let a held job go."""
    call("scontrol", "release", job_id)


@dataclass(frozen=True)
class Limits:
    """How much Slurm takes: elements of an array; jobs that this user may have in the queue, array elements counted
    one by one; and which limit that is."""

    array_size: int
    submit: int
    name: str


def limits(
    account: str | None = None, qos: str | None = None, partition: str | None = None, timeout: float = TIMEOUT_S
) -> Limits:
    """Read from `scontrol show config` and, where limits are enforced, from the user's association and QOS.

    Raises SlurmError if slurmctld does not answer; limits that accounting does not tell do not count.
    """
    found = config(timeout)
    bounds = [(_number(found.get("MaxJobCount", ""), 10000), "MaxJobCount")]
    if "limits" in found.get("AccountingStorageEnforce", ""):
        bounds += _enforced(account, qos, partition, timeout)
    submit, name = min(bounds)
    return Limits(_number(found.get("MaxArraySize", ""), 1001), submit, name)


def _enforced(account: str | None, qos: str | None, partition: str | None, timeout: float) -> list[tuple[int, str]]:
    user = _user()
    bounds = []
    try:
        columns = "Account,Partition,DefaultQOS,QOS,MaxSubmitJobs,GrpSubmitJobs,User"
        rows = [row.split("|") for row in _accounting("assoc", f"format={columns}", timeout=timeout)]
        mine = [row for row in rows if row[6] == user and row[0] == (account or row[0])]
        mine = [row for row in mine if row[1] in ("", partition)] or mine
        names = {qos} if qos else {row[2] or row[3].split(",")[0] for row in mine}
        for row in mine:
            bounds += [(_number(row[4]), f"MaxSubmitJobs of account {row[0]}")]
        for row in rows:
            if row[0] in {own[0] for own in mine} and row[6] in ("", user):
                bounds += [(_number(row[5]), f"GrpSubmitJobs of account {row[0]}")]
        for row in (
            text.split("|")
            for text in _accounting("qos", "format=Name,MaxSubmitPU,MaxSubmitPA,GrpSubmit", timeout=timeout)
        ):
            if row[0] in names:
                bounds += [(_number(value), f"the submit limit of QOS {row[0]}") for value in row[1:4]]
    except SlurmError:
        pass
    return [bound for bound in bounds if bound[0] < UNLIMITED]


def _accounting(*question: str, timeout: float) -> list[str]:
    return call("sacctmgr", "-n", "-P", "show", *question, timeout=timeout).splitlines()


def _number(text: str, default: int = UNLIMITED) -> int:
    return int(text) if text.isdigit() else default


@dataclass(frozen=True)
class Partition:
    """What the largest node and the longest job of a partition may be; None where Slurm sets no bound."""

    mem_gb: float | None
    minutes: int | None


def partition(name: str | None) -> Partition:
    """The bounds of a partition, of the default one if `name` is None (sinfo). Raises SlurmError."""
    rows = [row.split("|") for row in call("sinfo", "-h", "-e", "-o", "%P|%m|%l").splitlines()]
    mine = [row for row in rows if len(row) == 3 and (row[0].strip("*") == name if name else row[0].endswith("*"))]
    memory = [int(row[1].strip("+")) / 1024 for row in mine if row[1].strip("+").isdigit()]
    times = [minutes(row[2]) for row in mine]
    bounded = [time for time in times if time is not None]
    return Partition(max(memory, default=None), max(bounded, default=None))


def minutes(text: str) -> int | None:
    """A time as sinfo prints it: `10:00`, `1:00:00`, `2-00:00:00`, `infinite`."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if found is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + minutes
