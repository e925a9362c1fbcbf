"""The state of a run's jobs: one squeue and one sacct, whatever the size of the run. Queries never raise an error."""

import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import documents, runner
from diagcot.jobs.state.attempts import is_submitting, job_names
from diagcot.jobs.state.files import changed_at

TIMEOUT_S = 4.0  # a screen does not wait longer for a slurmctld that does not answer; files say most of it
ALIVE = {"RUNNING", "COMPLETING", "STOPPED", "SUSPENDED", "SIGNALING", "STAGE_OUT"}
QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}


class Job(Protocol):
    """The part of `diagcot.jobs.slurm.commands.Job` that the screens need."""

    @property
    def state(self) -> str:
        """State of the job, as squeue and sacct name it."""

    @property
    def reason(self) -> str:
        """Why it waits, as squeue names it."""


@dataclass(frozen=True)
class ExecutorState:
    """What is known of a run's jobs.

    jobs: rows of the run's own jobs by id, such as `7` or `7_2`. queue_known: a job that is not in `jobs` is gone.
    note: for the user. ended: no job is queued or running. local: a query costs nothing, so it may be repeated often.
    queried_at: files that are younger know more. runner_started: when the process that works on a local run started;
    tasks that were interrupted before are not failed.
    """

    jobs: Mapping[str, Job] = field(default_factory=dict)
    queue_known: bool = False
    note: str = ""
    ended: bool = False
    local: bool = False
    queried_at: float = math.inf
    runner_started: float = 0.0


def query(run_dir: Path) -> ExecutorState:
    """Query Slurm for the run's jobs; for a local run, check whether its runner is alive."""
    if _local(run_dir):
        if runner.is_working(run_dir):
            return ExecutorState(local=True, runner_started=changed_at(run_dir / "runner.lock") or 0.0)
        note = "no process works on this run now"
        if why := documents.find(run_dir / "runner.json", documents.RUNNER).get("why", ""):
            note = f"{note}; its runner was stopped: {why}"
        elif (run_dir / "runner.log").exists() and not (run_dir / "runner.json").exists():
            note = f"its runner died: {runner.last_words(run_dir)}; submit again to continue"
        return ExecutorState(note=note, ended=True, local=True)
    names = {job: found for job, found in job_names(run_dir).items() if job.isdigit()}
    if not names:
        return ExecutorState()
    if not slurm.available():
        return ExecutorState(note="only files are shown: Slurm's commands are not on PATH")
    return _query_slurm(run_dir, names)


def _query_slurm(run_dir: Path, names: Mapping[str, set[str]]) -> ExecutorState:
    started = time.time()
    with ThreadPoolExecutor(2) as pool:  # both at once: each may have to wait for a daemon that does not answer
        queue = pool.submit(slurm.queue, TIMEOUT_S)
        history = pool.submit(slurm.history, list(names), TIMEOUT_S)
    queued, ended = _rows(queue), _rows(history)
    note = ""
    if queued is None and ended is None:
        note = f"only files are shown: {queue.exception()}"
    elif queued is None:
        note = f"the queue is unknown, running jobs are those in accounting: {queue.exception()}"
    elif ended is None:
        note = f"no accounting, so jobs that ended without a result are shown as unknown: {history.exception()}"
    alive = _own(queued or {}, names)
    over = queued is not None and not alive and not is_submitting(run_dir)
    jobs = {**_own(ended or {}, names), **alive}
    return ExecutorState(jobs, queued is not None, note, over, queried_at=started)


def _rows(query: "Future[list[slurm.Job]] | Future[dict[str, slurm.Job]]") -> dict[str, slurm.Job] | None:
    error = query.exception()
    if isinstance(error, slurm.SlurmError):
        return None
    rows = query.result()
    return rows if isinstance(rows, dict) else {job.id: job for job in rows}


def _own(rows: Mapping[str, slurm.Job], names: Mapping[str, set[str]]) -> dict[str, slurm.Job]:
    """The rows of the run's own jobs. Slurm reuses ids, so the name must be right too."""
    own = {}
    for job, row in rows.items():
        known = names.get(job.split("_")[0], set())
        if row.name in known or "" in known or (known and not row.name):
            own[job] = row
    return own


def _local(run_dir: Path) -> bool:
    """True if the run's jobs are processes of this machine."""
    return executor(run_dir) not in ("slurm", "")


def executor(run_dir: Path) -> str:
    """The run's executor: slurm, local or debug; empty if it is not known."""
    return str(documents.find(run_dir / "cluster.yaml", documents.CLUSTER).get("executor", ""))
