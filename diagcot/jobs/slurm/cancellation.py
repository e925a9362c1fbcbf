"""Cancels all jobs of a run, also where its records are damaged or its folder cannot be written."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from diagcot.jobs.errors import UserError
from diagcot.jobs.lease import submit_lease
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts, documents
from diagcot.jobs.state.attempts import Attempt

SETTLE_S = 15
"""How long a cancellation looks for jobs that come back."""


def cancel(run_dir: Path) -> list[str]:
    """Cancel every queued or running job of a run, also those of an interrupted submission; returns their ids.

    Raises UserError if a record of jobs is damaged or the run's folder cannot be written, after those that are known were
    cancelled.
    """
    damaged = list[documents.DamagedFile]()
    try:
        with submit_lease(run_dir):
            for folder in (folder for folder in run_dir.iterdir() if folder.is_dir()):
                try:
                    if intent := attempts.intended(folder):
                        _close(folder, intent)
                    attempts.read(folder)
                except documents.DamagedFile as error:
                    damaged.append(error)
            live = _cancel_known(run_dir)
    except OSError as error:
        said = f"{len(_cancel_known(run_dir))} jobs of run {run_dir.name} were cancelled, others may be left"
        raise UserError(f"{said}: {run_dir} cannot be written ({error.strerror}). Cancel again when it can") from error
    _cancel_what_returns(run_dir, live)
    if damaged:
        raise UserError(f"{len(live)} jobs were cancelled, those that are known: {damaged[0]}") from damaged[0]
    return live


def has_jobs(run_dir: Path) -> bool:
    """Whether a record of the run names a job of Slurm, or a submission that may have made some."""
    folders = [folder for folder in run_dir.iterdir() if folder.is_dir()]
    return bool(_known(run_dir)) or any(attempts.intended(folder) for folder in folders)


def _cancel_known(run_dir: Path) -> list[str]:
    slurm.cancel(live := _ids(_queued(run_dir)))
    return live


def _queued(run_dir: Path) -> list[slurm.Job]:
    """The run's jobs that are queued or running, one row for each array task."""
    if not (known := _known(run_dir)):
        return []
    return [job for job in slurm.queue() if {(array := job.id.partition("_")[0], job.name), (array, "")} & known]


def _ids(jobs: Iterable[slurm.Job]) -> list[str]:
    """Ids of jobs and of whole arrays."""
    return sorted({job.id.partition("_")[0] for job in jobs})


def _known(run_dir: Path) -> set[tuple[str, str]]:
    """(id, name) of every job that the run's records know; a laptop's attempts have none."""
    return {(job, name) for job, names in attempts.job_names(run_dir).items() if job.isdigit() for name in names}


def _cancel_what_returns(run_dir: Path, jobs: Sequence[str]) -> None:
    """Cancel again what is in the queue once more.

    Slurm loses the cancellation of a job that it was about to requeue, for example from a node that did not start it; if
    slurmctld is killed at that moment, it loses all of them.
    Takes at most `SETTLE_S`, and ends as soon as no job is left.
    """
    end, known = time.monotonic() + SETTLE_S, set(jobs)
    while left := [job for job in _queued(run_dir) if job.id.partition("_")[0] in known]:
        if any(job.state != "COMPLETING" for job in left):
            slurm.cancel(_ids(left))
        if time.monotonic() > end:
            return
        time.sleep(1)


def _close(folder: Path, intent: Attempt) -> None:
    """Record an interrupted submission as far as it went, so that nobody completes it."""
    arrays = tuple(replace(array, job=jobs[0]) for array in intent.arrays if (jobs := slurm.named(array.name)))
    finaliser = slurm.named(intent.finaliser_name) if intent.finaliser_name else []
    why = f"{intent.why}, interrupted and cancelled"
    attempts.write(folder, replace(intent, why=why, arrays=arrays, finaliser="".join(finaliser[:1])))
