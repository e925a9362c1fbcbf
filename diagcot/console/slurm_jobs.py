"""What Slurm says of a run's jobs: one squeue and one sacct, whatever the size, and never an error for a watcher."""

import re
from collections.abc import Mapping
from pathlib import Path

from diagcot.console.run_files import job_ids
from diagcot.jobs import slurm


def ask(run_dir: Path) -> tuple[Mapping[str, slurm.Job] | None, str]:
    """(jobs by id, note). No jobs and a note where Slurm does not answer; (None, "") for a run that never met Slurm."""
    ids = [job for job in job_ids(run_dir) if job.isdigit()]
    if not ids or _local(run_dir) or not slurm.available():
        return None, ""
    try:
        queued = {job.id: job for job in slurm.queue()}
    except slurm.SlurmError as error:
        return None, f"Slurm does not answer, so only files are shown: {error}"
    try:
        return {**slurm.history(ids), **queued}, ""
    except slurm.SlurmError as error:
        return queued, f"no accounting: jobs that ended without a result show as unknown ({error})"


def _local(run_dir: Path) -> bool:
    """Whether the run's jobs are processes of this machine, whose ids Slurm would mistake for its own."""
    path = run_dir / "cluster.yaml"
    return (
        path.exists()
        and re.search(r"^executor:\s*[\"']?local", path.read_text(encoding="utf-8"), re.MULTILINE) is not None
    )
