"""What Slurm's own log of a job says, where a job has failed before the worker opened a log of its task."""

import os
import re
from pathlib import Path

from diagcot.jobs.entrypoints import STARTED
from diagcot.jobs.environment import variables
from diagcot.jobs.state import attempts, reading

FOLDER = "slurm"  # of a stage (as in `diagcot.jobs.slurm.sbatch`)
CHARACTERS = 300  # of a line that are shown
END = 1 << 20  # bytes of a log that are read
# What shells, loaders, containers and Slurm print when something is wrong.
WRONG = re.compile(
    r"[Ee]rror|ERROR|FATAL|not found|denied|No such|[Cc]annot|[Uu]nable|[Ff]ailed|Killed|Traceback|[Uu]nrecognized|[Ii]nvalid"
)
# Slurm's own last lines ("Exited with exit code 1") say less than those of the program.
OF_SLURM = re.compile(r"^(srun|slurmstepd|slurmd\S*):")


def job_log(stage_dir: Path, job: str) -> Path | None:
    """Slurm's log of a job or array element; None if there is none, or nothing in it."""
    path = stage_dir / FOLDER / f"{job}.log"
    return path if path.exists() and path.stat().st_size else None


def task_log(stage_dir: Path, task_index: int) -> Path | None:
    """Slurm's log of the newest job of a task."""
    newest = attempts.newest_arrays(stage_dir)
    return job_log(stage_dir, newest[task_index][2]) if task_index in newest else None


def job_logs(stage_dir: Path) -> list[Path]:
    """Slurm's logs of a stage that are not empty: those of finalisers, then those of tasks, each the oldest first."""
    finalisers = {attempt.finaliser for attempt in attempts.known(stage_dir)}
    paths = [path for path in (stage_dir / FOLDER).glob("*.log") if path.stat().st_size]
    return sorted(paths, key=lambda path: (path.stem not in finalisers, path.stat().st_mtime))


def end(path: Path) -> str:
    """The text of the last END bytes of a log. Raises as `reading.read_bytes`."""

    def last() -> bytes:
        with reading.opened(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - END))
            return file.read(END)

    return reading.patient(path, last).decode(errors="replace")


def complaint(*paths: Path) -> str:
    """The last line of these logs that says what went wrong, else the last line; empty if there is none."""
    texts = [end(path) for path in paths]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith((STARTED, variables.DROPPED))]
    wrong = [line for line in lines if WRONG.search(line)]
    own = [line for line in wrong if not OF_SLURM.match(line)]
    return (own or wrong or lines or [""])[-1][:CHARACTERS]
