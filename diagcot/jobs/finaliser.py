"""Ends a stage: checks its manifests, writes `summary.json`, resubmits what may be retried, releases what follows."""

import os
import time
from pathlib import Path

from diagcot.jobs import causes, chain
from diagcot.jobs.cluster import Cluster
from diagcot.jobs.errors import UserError
from diagcot.jobs.lease import submit_lease
from diagcot.jobs.plans.plan import Plan, read
from diagcot.jobs.plans.stored import stages
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.slurm import submit
from diagcot.jobs.state import attempts, failures
from diagcot.jobs.summary import check, summarise

VISIBLE_S = 10  # a file that another node has just written may appear here this late (NFS caches listings and misses)
AWAY_S = 1800  # how long a finaliser waits for slurmctld to answer


class StageFailed(UserError):
    """The stage has units that are not done and may not be retried."""


def finalise(stage_dir: Path | str) -> str:
    """Run the finaliser's job. Returns "done", "retried", "superseded" or "handed over".

    Raises StageFailed, which cancels what follows.

    It may itself be killed and requeued at any point: it then finds what it has submitted, and continues. While
    slurmctld does not answer it waits; failing would cancel all that follows.
    """
    os.umask(0o077)
    end, wait = time.monotonic() + AWAY_S, 1.0
    while True:
        try:
            return _finalise(Path(stage_dir))
        except slurm.SlurmError as error:
            if not slurm.transient(str(error)) or time.monotonic() > end:
                raise
            print(f"{time.strftime('%F %T')} {error}: next try in {wait:.0f} s", flush=True)
            time.sleep(wait)
            wait = min(2 * wait, 60)


def _hand_over(plan: Plan, missing: list[str], job: str, error: UserError) -> str:
    """Leave the resubmission to a person: say so, and wait in the queue, held, so that nothing that follows is cancelled.

    Many sites let only login nodes submit jobs; at others an account has expired since.
    """
    command = f"make retry STAGE={plan.stage} RUN={plan.run}"
    why = (
        f"resubmit it from the login node with `{command}`: its finaliser, on {os.uname().nodename}, could not: {error}"
    )
    attempts.hand_over(plan.path, job, why)
    summarise(plan, missing, why)
    print(why, flush=True)
    try:
        slurm.requeue_held(job)
    except slurm.SlurmError as refusal:
        raise StageFailed(f"stage {plan.stage}: {why} (and it could not be held: {refusal})") from error
    return "handed over"


def _require_own_job(plan: Plan, job: str) -> None:
    """Raise StageFailed if Slurm is ending this job: a person has cancelled the run, or Slurm will requeue it.

    To be called with the submit lease, under which a run is cancelled: nothing is submitted after that. At its time limit the job
    still has the time to submit.
    """
    row = slurm.show("job", job)[0]
    if row.get("JobState") in ("CANCELLED", "COMPLETING") and row.get("Reason") != "TimeLimit":
        raise StageFailed(f"stage {plan.stage}: its finaliser was ended before it could resubmit what is not done")


def _finalise(stage_dir: Path) -> str:
    job = os.environ["SLURM_JOB_ID"]
    plan, cluster = read(stage_dir), Cluster.read(stage_dir.parent)
    failed, unfinished = {int(row["task"]) for row in failures.read(stage_dir)}, set(plan.open_tasks())
    missing = check(
        plan, 0 if unfinished and unfinished <= failed else VISIBLE_S
    )  # what a task raised is not merely late
    if not missing:
        summarise(plan, missing)
        return "done"
    if not causes.upstream_complete(plan):
        why = "it did not run to its end because a stage before it failed"
        summarise(plan, missing, why)
        raise StageFailed(f"stage {plan.stage}: {why}")
    with submit_lease(stage_dir.parent):
        _require_own_job(plan, job)
        # First complete the submissions of a launcher that was killed: a stage that waits for this job must be known.
        for name in stages(stage_dir.parent):
            submit.recover(read(stage_dir.parent / name), cluster)
        newest = [attempt for attempt in attempts.read(stage_dir) if attempt.finaliser][-1]
        if newest.finaliser != job:
            chain.follow(plan, job, newest.finaliser)
            return "superseded"
        verdict = causes.judge(plan, cluster.max_attempts)
        if verdict.retries:
            try:
                chain.resubmit(plan, verdict, job)
            except UserError as error:
                if slurm.transient(str(error)):
                    raise
                return _hand_over(plan, missing, job, error)
            attempts.take_over(stage_dir)
            return "retried"
    summarise(plan, missing, verdict.why)
    raise StageFailed(f"stage {plan.stage}: {len(missing)} of {len(plan.keys)} units are not done. {verdict.why}")
