"""What the executor of a run says of its jobs: one squeue and one sacct whatever the size, and never an error."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diagcot.console.run_files import job_ids
from diagcot.jobs import slurm

PATIENCE_S = 4.0  # a screen does not wait longer for a slurmctld that is away; files say most of it


@dataclass(frozen=True)
class Answer:
    """`jobs` by id, None where Slurm has no say; `note`: for the watcher; `ended`: nobody works on the run now."""

    jobs: Mapping[str, slurm.Job] | None = None
    note: str = ""
    ended: bool = False
    local: bool = False  # known at no cost, so it may be asked at every look


def ask(run_dir: Path) -> Answer:
    """Ask Slurm of the run's jobs; for a run of this machine, whether its runner lives."""
    if _local(run_dir):
        lives = _runner(run_dir)
        return Answer(note="" if lives else "nothing works on this run now", ended=not lives, local=True)
    ids = [job for job in job_ids(run_dir) if job.isdigit()]
    if not ids:
        return Answer()
    if not slurm.available():
        return Answer(note="only files are shown: Slurm's commands are not on PATH here")
    try:
        queued = {job.id: job for job in slurm.queue(PATIENCE_S)}
    except slurm.SlurmError as error:
        return Answer(note=f"only files are shown: {error}")
    try:
        return Answer({**slurm.history(ids, PATIENCE_S), **queued})
    except slurm.SlurmError as error:
        return Answer(queued, f"no accounting, so jobs that ended without a result show as unknown: {error}")


def _local(run_dir: Path) -> bool:
    """Whether the run's jobs are processes of this machine."""
    try:
        return bool(json.loads((run_dir / "cluster.yaml").read_bytes())["executor"] == "local")
    except (FileNotFoundError, ValueError):
        return False


def _runner(run_dir: Path) -> bool:
    """Whether the process that starts a local run's tasks is alive (`diagcot.jobs.local`)."""
    if (run_dir / "runner.json").exists():
        return False
    try:
        os.kill(int((run_dir / "runner.lock").read_text()), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True
