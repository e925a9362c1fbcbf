"""Cancels all jobs of a run, also where its records are damaged or its folder cannot be written."""

from dataclasses import replace
from pathlib import Path

from diagcot.jobs.errors import UserError
from diagcot.jobs.lease import submit_lease
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts, documents
from diagcot.jobs.state.attempts import Attempt


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
    if damaged:
        raise UserError(f"{len(live)} jobs were cancelled, those that are known: {damaged[0]}") from damaged[0]
    return live


def _cancel_known(run_dir: Path) -> list[str]:
    known = (attempt for folder in run_dir.iterdir() if folder.is_dir() for attempt in attempts.known(folder))
    # A laptop's attempts have no job of Slurm's.
    names = {job: name for attempt in known for job, name in attempt.names.items() if job.isdigit()}
    slurm.cancel(live := sorted(slurm.alive(names)) if names else [])
    return live


def _close(folder: Path, intent: Attempt) -> None:
    """Record an interrupted submission as far as it went, so that nobody completes it."""
    arrays = tuple(replace(array, job=jobs[0]) for array in intent.arrays if (jobs := slurm.named(array.name)))
    finaliser = slurm.named(intent.finaliser_name) if intent.finaliser_name else []
    why = f"{intent.why}, interrupted and cancelled"
    attempts.write(folder, replace(intent, why=why, arrays=arrays, finaliser="".join(finaliser[:1])))
