"""The submissions of a stage: `attempts/<n>.json` says which jobs were given which tasks, with what, and why.

Before the first sbatch the same record, without job ids, is written as `<n>.intent`: a launcher that is killed in
between leaves it, and whoever submits next looks up by the jobs' names which of them Slurm had accepted.
"""

import contextlib
import functools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diagcot.jobs import owners
from diagcot.jobs.errors import UserError
from diagcot.jobs.state import documents, reading
from diagcot.jobs.state.files import create_exclusively, write_json
from diagcot.jobs.state.progress import Progress

HANDED_OVER = "unsubmitted.json"
RETRY_FACTOR = 1.5  # a task that lacked memory or time asks for this many times as much at its next attempt


@dataclass(frozen=True)
class Array:
    """One sbatch: element i of `job` runs task `tasks[i]`; a single task is a plain job."""

    job: str  # empty while Slurm has not accepted it
    tasks: tuple[int, ...]
    name: str = ""  # the job's name, which is never used again; job ids are (MaxJobId)
    after: str = ""  # its dependency
    resources: dict[str, Any] = field(default_factory=dict)

    def ids(self) -> Iterator[tuple[int, str]]:
        """(task, its job's id) of each element."""
        for index, task_index in enumerate(self.tasks):
            yield task_index, f"{self.job}_{index}" if len(self.tasks) > 1 else self.job


@dataclass(frozen=True)
class Attempt:
    """One submission of a stage."""

    number: int  # from 1
    why: str
    arrays: tuple[Array, ...] = ()
    finaliser: str = ""
    finaliser_name: str = ""  # empty if the finaliser of an earlier attempt ends the stage for this one too
    finaliser_after: str = ""
    by: str = "person"  # or "finaliser"
    code: str = ""  # the snapshot that its jobs run
    spent: dict[int, int] = field(default_factory=dict)  # task -> ends that counted, since a person last submitted it
    progress: dict[int, Progress] = field(default_factory=dict)  # task -> how far it was then
    time: float = 0

    def task_jobs(self) -> Iterator[tuple[int, str]]:
        """(task, its job's id) of each task that was submitted."""
        for array in self.arrays:
            yield from array.ids()

    @property
    def names(self) -> dict[str, str]:
        """Job id -> name of all its jobs."""
        names = {array.job: array.name for array in self.arrays}
        return names | ({self.finaliser: self.finaliser_name} if self.finaliser else {})

    @property
    def jobs(self) -> list[str]:
        """Ids of all its jobs and arrays, the finaliser last."""
        return list(self.names)


def read(stage_dir: Path) -> list[Attempt]:
    """All submissions of the stage, first to last. Their files never change: each is read once.

    Raises UserError if a file is damaged: jobs that are not known would be submitted a second time.
    """
    return [_unchanged(path, stat.st_ino, stat.st_mtime_ns) for path in _files(stage_dir) for stat in [path.stat()]]


def known(stage_dir: Path) -> list[Attempt]:
    """As `read`, without those whose files are damaged: for screens, and to cancel what is known."""
    found = []
    for path in _files(stage_dir):
        with contextlib.suppress(UserError, FileNotFoundError):
            stat = path.stat()
            found.append(_unchanged(path, stat.st_ino, stat.st_mtime_ns))
    return found


def newest_number(stage_dir: Path) -> int:
    """The number of the newest submission; 0 if there is none."""
    return max((int(path.stem) for path in _files(stage_dir)), default=0)


def _files(stage_dir: Path) -> list[Path]:
    numbers = [int(path.stem) for path in reading.listing(stage_dir / "attempts", "*.json") if path.stem.isdecimal()]
    return [stage_dir / "attempts" / f"{number}.json" for number in sorted(numbers)]


@functools.lru_cache(maxsize=512)
def _unchanged(path: Path, inode: int, changed: int) -> Attempt:
    return _read(path)


def _read(path: Path) -> Attempt:
    row = documents.read(path, documents.ATTEMPT)
    try:
        row["arrays"] = tuple(_array(array) for array in row["arrays"])
        row["spent"] = {int(task): count for task, count in row.get("spent", {}).items()}
        row["progress"] = {int(task): Progress(*figures) for task, figures in row.pop("marks", {}).items()}
        return Attempt(**{"why": "", **row, "number": int(path.stem)})
    except (TypeError, ValueError) as error:
        raise documents.damaged(path, documents.ATTEMPT, "it has other keys than it was written with") from error


def _row(attempt: Attempt) -> dict[str, Any]:
    """The content of an attempt's file, whose keys are those of the first version."""
    row = {{"progress": "marks"}.get(name, name): value for name, value in asdict(attempt).items()}
    row["arrays"] = [
        {{"tasks": "slots"}.get(name, name): value for name, value in array.items()} for array in row["arrays"]
    ]
    return row


def _array(row: dict[str, Any]) -> Array:
    return Array(tasks=tuple(row["slots"]), **{name: value for name, value in row.items() if name != "slots"})


def last_code(stage_dir: Path, planned: str) -> str:
    """The snapshot that the stage's last jobs run; `planned` before the first submission."""
    submissions = read(stage_dir)
    last = submissions[-1].code if submissions else ""
    return owners.now(stage_dir, last) if last else planned


def newest_arrays(stage_dir: Path) -> dict[int, tuple[Attempt, Array, str]]:
    """Task -> the newest attempt and array that it is part of, and its job's id there."""
    return {
        task_index: (attempt, array, job)
        for attempt in read(stage_dir)
        for array in attempt.arrays
        for task_index, job in array.ids()
    }


def intend(stage_dir: Path, attempt: Attempt) -> None:
    """Record what is about to be submitted."""
    (stage_dir / "attempts").mkdir(exist_ok=True)
    write_json(stage_dir / "attempts" / f"{attempt.number}.intent", _row(attempt))


def forget(stage_dir: Path, attempt: Attempt) -> None:
    """Remove the record of a submission of which Slurm has accepted nothing."""
    (stage_dir / "attempts" / f"{attempt.number}.intent").unlink(missing_ok=True)


def hand_over(stage_dir: Path, finaliser: str, why: str) -> None:
    """Record that a finaliser could not resubmit, and leaves it to a person."""
    write_json(stage_dir / HANDED_OVER, {"finaliser": finaliser, "why": why})


def handed_over(stage_dir: Path) -> tuple[str, str]:
    """(job, reason) of a finaliser that left resubmission to a person; empty if none did."""
    row = documents.find(stage_dir / HANDED_OVER, documents.HANDED_OVER)
    return str(row.get("finaliser", "")), str(row.get("why", ""))


def take_over(stage_dir: Path) -> None:
    """Forget that a finaliser left resubmission to a person: somebody does it now."""
    (stage_dir / HANDED_OVER).unlink(missing_ok=True)


def intended(stage_dir: Path) -> Attempt | None:
    """What a launcher that was killed was about to submit; None if there is no such submission."""
    for path in (stage_dir / "attempts").glob("*.intent"):
        if (path.with_suffix(".json")).exists():
            path.unlink()
        else:
            return _read(path)
    return None


def write(stage_dir: Path, attempt: Attempt) -> None:
    """Record a submission whose jobs are accepted."""
    folder = stage_dir / "attempts"
    folder.mkdir(exist_ok=True)
    row = _row(attempt) | {"time": time.time()}
    if not create_exclusively(folder / f"{attempt.number}.json", json.dumps(row, indent=1) + os.linesep):
        raise FileExistsError(f"{folder}/{attempt.number}.json: two launchers submit the same stage at once")
    (folder / f"{attempt.number}.intent").unlink(missing_ok=True)


def job_names(run_dir: Path) -> dict[str, set[str]]:
    """Id -> names of every job and array that was ever submitted for a run, finalisers included.

    Names are never used again, ids are: after MaxJobId, and by a slurmctld that was killed, which gives the ids that it has
    forgotten to other jobs, also of this run. A row of Slurm with another name belongs to another job.
    """
    found: dict[str, set[str]] = {}
    for folder in sorted(path.parent for path in run_dir.glob("*/attempts")):
        for attempt in known(folder):
            for job, name in attempt.names.items():
                found.setdefault(job, set()).add(name)
    return found


def is_submitting(run_dir: Path) -> bool:
    """True while a launcher is, or was killed, in the middle of a submission."""
    return any(True for _ in run_dir.glob("*/attempts/*.intent"))
