"""Submits tasks of a plan to Slurm: one sbatch for each array, and a finaliser that follows all of them.

No job is submitted twice. Every sbatch has a unique job name; after an error, or after a launcher that was killed, the
jobs of that name are looked up and adopted.
"""

import dataclasses
import hashlib
import re
import time
from collections.abc import Sequence
from pathlib import Path

from diagcot.jobs.cluster import Cluster, Size
from diagcot.jobs.errors import UserError
from diagcot.jobs.plans.plan import Plan
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.slurm import sbatch
from diagcot.jobs.state import attempts, documents
from diagcot.jobs.state.attempts import Array, Attempt
from diagcot.jobs.state.files import write_text

PATIENCE_S = 300  # how long a submission waits for slurmctld to come back
SBATCH_S = 45  # an sbatch that hangs is ended after this long, and its job is looked up
ACCEPTED = re.compile(r"^Submitted batch job (\d+)(?: on cluster \S+)?\s*$", re.MULTILINE)
PARSABLE = re.compile(r"^(\d+)(?:;\S+)?\s*$", re.MULTILINE)


def submit(
    plan: Plan, cluster: Cluster, arrays: Sequence[Array], why: str, finaliser_after: str | None, **about: object
) -> Attempt:
    """Submit arrays that have no job yet, and the finaliser that follows all of them.

    finaliser_after: what the finaliser follows in addition to the arrays, such as `afterany:12`; None for no finaliser.
    about: other fields of the attempt. Returns the attempt, which is also written to `attempts/`.
    Raises SlurmError if Slurm refuses, or does not answer for `PATIENCE_S`; UserError if the code that the jobs are to
    run is a snapshot of a version whose jobs are started in another way.
    """
    _require_entry(plan, Path(str(about.get("code") or plan.code)))
    attempts.read(plan.path)  # a damaged record may name jobs that are alive
    number = attempts.newest_number(plan.path) + 1
    token = _token(plan, number)
    named = tuple(
        dataclasses.replace(array, name=f"{plan.run}.{plan.stage}.{token}{index or ''}")
        for index, array in enumerate(arrays)
    )
    name = "" if finaliser_after is None else f"{plan.run}.{plan.stage}.finaliser.{token}"
    fields = {"code": plan.code, "finaliser_name": name, "finaliser_after": finaliser_after or ""} | about
    attempt = Attempt(number, why, named, **fields)  # type: ignore[arg-type]
    if cluster.container:  # which can only be given folders that are there
        for folder in sbatch.product_folders(plan):
            folder.mkdir(parents=True, exist_ok=True)
    attempts.intend(plan.path, attempt)
    return _complete(plan, cluster, attempt, adopt=False)


def _require_entry(plan: Plan, code: Path) -> None:
    if not (code / f"{sbatch.ENTRY.replace('.', '/')}.py").exists():
        raise UserError(
            f"stage {plan.stage}: the code of run {plan.run} in {code} is of an older version, whose jobs this version"
            f" cannot start: make retry RUN={plan.run} STAGE={plan.stage} CODE=new"
        )


def recover(plan: Plan, cluster: Cluster, anew: bool = False) -> Attempt | None:
    """Finish the submission of a launcher that was killed: adopt the jobs that Slurm has, submit the others.

    anew: forget a submission of which Slurm has no job at all, because the caller submits the stage as it is now.
    """
    attempt = attempts.intended(plan.path)
    if attempt is None:
        return None
    names = [array.name for array in attempt.arrays] + [attempt.finaliser_name] * bool(attempt.finaliser_name)
    if anew and not any(slurm.named(name) for name in names):
        attempts.forget(plan.path, attempt)
        return None
    return _complete(plan, cluster, attempt, adopt=True)


def _token(plan: Plan, number: int) -> str:
    """The same whenever one submission is repeated, and different for every other submission."""
    try:
        run = documents.read(plan.path.parent / "run.json", documents.RUN)["uuid"]
    except (FileNotFoundError, KeyError):
        run = str(plan.path)
    return hashlib.sha256(f"{run}/{plan.stage}/{plan.created}/{number}".encode()).hexdigest()[:8]


def _complete(plan: Plan, cluster: Cluster, attempt: Attempt, adopt: bool) -> Attempt:
    """Submit all of it, or nothing: what was accepted before a refusal is cancelled, and decides nothing later."""
    arrays: list[Array] = []
    try:
        complete = _send_all(plan, cluster, attempt, adopt, arrays)
    except slurm.SlurmError as error:
        if not slurm.transient(str(error)):
            slurm.cancel([array.job for array in arrays])
            if arrays:  # their names were used
                attempts.write(plan.path, dataclasses.replace(attempt, why=f"{attempt.why}, refused", arrays=()))
            else:
                attempts.forget(plan.path, attempt)
        raise
    attempts.write(plan.path, complete)
    return complete


def _send_all(plan: Plan, cluster: Cluster, attempt: Attempt, adopt: bool, arrays: list[Array]) -> Attempt:
    """Submit the arrays and the finaliser of an attempt. arrays: receives those that Slurm has accepted."""
    for array in attempt.arrays:
        size = Size.given(array.resources)
        names = {"job_name": array.name, "dependency": array.after}
        script = sbatch.work(plan, cluster, size, array.tasks, attempt.code, **names)
        if not arrays:
            write_text(plan.path / "job.sbatch", script)
        arrays.append(dataclasses.replace(array, job=_send(plan, array.name, script, adopt)))
    finaliser = ""
    if attempt.finaliser_name:
        jobs = ":".join(array.job for array in arrays)
        dependency = ",".join(filter(None, [f"afterany:{jobs}", attempt.finaliser_after]))
        names = {"job_name": attempt.finaliser_name, "dependency": dependency}
        script = sbatch.finalise(plan, cluster, attempt.code, **names)
        finaliser = _send(plan, attempt.finaliser_name, script, adopt)
    return dataclasses.replace(attempt, arrays=tuple(arrays), finaliser=finaliser)


def _send(plan: Plan, name: str, script: str, adopt: bool) -> str:
    """Submit a script once; returns the job's or array's id. adopt: first look whether Slurm has it already.

    An sbatch that failed may have been accepted all the same, so after each failure the job is looked up by its name.
    """
    path = plan.path / sbatch.FOLDER / f"{name}.sbatch"
    path.parent.mkdir(exist_ok=True)
    write_text(path, script)
    end, wait, error, refused = time.monotonic() + PATIENCE_S, 1.0, "", False
    while True:
        try:
            if (adopt or error) and (jobs := slurm.named(name)):
                slurm.cancel(jobs[1:])  # an answer that came very late can have left two
                return jobs[0]
            if refused:
                break
            job = _sbatch(path)
            if error:
                slurm.cancel([late for late in slurm.named(name) if late != job])
            return job
        except slurm.SlurmError as failure:
            error = str(failure)
            if slurm.transient(error) and time.monotonic() < end:
                time.sleep(wait)
                wait = min(2 * wait, 20)
            elif slurm.transient(error) or refused:
                break
            else:
                refused = True  # look once whether it was accepted all the same
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    message = next((line for line in lines if "error" in line.lower()), lines[-1])
    raise slurm.SlurmError(f"sbatch refused stage {plan.stage}: {message}")


def _sbatch(script: Path) -> str:
    """Run sbatch; returns the id that it prints. Raises SlurmError with all that it printed, or if it printed no id."""
    done = slurm.run("sbatch", str(script), timeout=SBATCH_S)
    if done.returncode:
        printed = (done.stderr or done.stdout).strip()
        raise slurm.SlurmError(printed or f"sbatch ended with status {done.returncode} and no message")
    return accepted(done.stdout)


def accepted(printed: str) -> str:
    """The job id in what sbatch printed, whatever warnings surround it. Raises SlurmError if there is none."""
    ids = ACCEPTED.findall(printed) or PARSABLE.findall(printed)
    if not ids:
        raise slurm.SlurmError(f"sbatch names no job: {' '.join(printed.split())[:500] or 'it printed nothing'}")
    return str(ids[-1])


def render(plan: Plan, cluster: Cluster, dependency: str = "") -> str:
    """The script that would be submitted for the plan's tasks, without submitting it."""
    return sbatch.work(plan, cluster, plan.resources, range(plan.tasks), dependency=dependency)
