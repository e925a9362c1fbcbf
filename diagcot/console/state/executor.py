"""What the executor of a run reports about its jobs: one squeue and one sacct whatever the size, and never an error."""

import json
import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import runner
from diagcot.jobs.state.attempts import is_submitting, job_names
from diagcot.jobs.state.files import changed_at

PATIENCE_S = 4.0  # a screen does not wait longer for a slurmctld that is away; files say most of it
ALIVE = {"RUNNING", "COMPLETING", "STOPPED", "SUSPENDED", "SIGNALING", "STAGE_OUT"}
QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}


class Job(Protocol):
    """What is needed of a row of squeue or sacct (see `diagcot.jobs.slurm.commands.Job`)."""

    @property
    def state(self) -> str:
        """Slurm's state of the job."""

    @property
    def reason(self) -> str:
        """Why it waits."""


@dataclass(frozen=True)
class Answer:
    """`jobs`: rows of the run's own jobs by id, such as `7` or `7_2`.

    asked: whether the queue is known, so that a job that is not in `jobs` no longer exists. note: a line for the viewer.
    ended: nothing works on the run now. local: the answer costs nothing, so every refresh may ask. time: when it was
    asked; files may be newer. since: when the current worker of the run began, if known; work that was interrupted
    before that is not reported as an error.
    """

    jobs: Mapping[str, Job] = field(default_factory=dict)
    asked: bool = False
    note: str = ""
    ended: bool = False
    local: bool = False
    time: float = math.inf
    since: float = 0.0


def ask(run_dir: Path) -> Answer:
    """Ask Slurm of the run's jobs; for a run of this machine, whether its runner lives."""
    if _local(run_dir):
        if runner.is_working(run_dir):
            return Answer(local=True, since=changed_at(run_dir / "runner.lock") or 0.0)
        return Answer(note="nothing works on this run now", ended=True, local=True)
    named = {job: name for job, name in job_names(run_dir).items() if job.isdigit()}
    if not named:
        return Answer()
    if not slurm.available():
        return Answer(note="only files are shown: Slurm's commands are not on PATH here")
    began = time.time()
    with ThreadPoolExecutor(2) as both:  # side by side: each may have to wait for a daemon that is away
        queue = both.submit(slurm.queue, PATIENCE_S)
        history = both.submit(slurm.history, list(named), PATIENCE_S)
    queued, ended, notes = _rows(queue), _rows(history), []
    if queued is None and ended is None:
        notes.append(f"only files are shown: {queue.exception()}")
    elif queued is None:
        notes.append(f"the queue is not known, what runs is as accounting last heard: {queue.exception()}")
    elif ended is None:
        notes.append(f"no accounting, so jobs that ended without a result show as unknown: {history.exception()}")
    live = _own(queued or {}, named)
    over = queued is not None and not live and not is_submitting(run_dir)
    return Answer({**_own(ended or {}, named), **live}, queued is not None, "; ".join(notes), over, time=began)


def _rows(asked: "Future[list[slurm.Job]] | Future[dict[str, slurm.Job]]") -> dict[str, slurm.Job] | None:
    error = asked.exception()
    if isinstance(error, slurm.SlurmError):
        return None
    rows = asked.result()
    return rows if isinstance(rows, dict) else {job.id: job for job in rows}


def _own(rows: Mapping[str, slurm.Job], named: Mapping[str, str]) -> dict[str, slurm.Job]:
    """The rows of the run's jobs: an id may be another job's by now, a name never is."""
    found = {}
    for job, row in rows.items():
        name = named.get(job.split("_")[0])
        if name is not None and (not name or row.name in ("", name)):
            found[job] = row
    return found


def _local(run_dir: Path) -> bool:
    """Whether the run's jobs are processes of this machine."""
    return executor(run_dir) not in ("slurm", "")


def executor(run_dir: Path) -> str:
    """The run's executor: slurm, local or debug; empty if it is not known."""
    try:
        return str(json.loads((run_dir / "cluster.yaml").read_bytes())["executor"])
    except (FileNotFoundError, ValueError, KeyError):
        return ""
