"""Why a task ended without finishing its units, and what follows: its cause decides."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from diagcot.jobs.errors import UserError
from diagcot.jobs.plans.plan import Plan, read
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts, failures
from diagcot.jobs.state.attempts import Attempt
from diagcot.jobs.state.failures import INTERRUPTED, LOST_PEER, PARKED, UPSTREAM_INCOMPLETE
from diagcot.jobs.state.progress import Progress

MAX_FAILURES = 2  # a task that fails this often in the same way is stopped
LAG_S = 15  # accounting was seen up to 4 s behind the queue
UNFINISHED = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "RESIZING", "SUSPENDED")
# Exit codes of a job that the kernel or Slurm killed for its memory; srun reports a task that Slurm killed as 9.
KILLED = ("137:0", "9:0", "0:9", "125:0", "0:125")


@dataclass(frozen=True)
class Rule:
    """What follows when a task has ended in some state without finishing its units."""

    retry: bool
    message: str
    counted: bool = False  # against the cluster's max_attempts
    more_memory: bool = False
    more_time: bool = False
    exclude_node: bool = False


RULES: dict[str, Rule] = {
    "PREEMPTED": Rule(True, "preempted: runs again, not counted"),
    "NODE_FAIL": Rule(True, "the node failed: runs again on another node", exclude_node=True),
    "BOOT_FAIL": Rule(True, "the node did not boot: runs again on another node", exclude_node=True),
    "TIMEOUT": Rule(True, "time limit: continues from its last record or checkpoint"),
    "STUCK": Rule(True, "time limit without progress: runs again with more time", counted=True, more_time=True),
    "OUT_OF_MEMORY": Rule(True, "out of memory: runs again with more", counted=True, more_memory=True),
    "FAILED": Rule(True, "failed: tried once more", counted=True),
    "COMPLETED": Rule(True, "ended before its units were done: continues", counted=True),
    "CANCELLED": Rule(False, "cancelled by a person: not retried automatically"),
    "REMOVED": Rule(False, "removed from the queue before it began (scancel): not retried automatically"),
    "DEPENDENCY": Rule(True, "the stage that it follows had failed and was run again"),
    "WAITING": Rule(True, "the submit limit left no room for it before"),
    "DEADLINE": Rule(False, "its deadline passed"),
    "UNKNOWN": Rule(True, "Slurm does not report why it ended", counted=True),
}


@dataclass(frozen=True)
class Verdict:
    """The decision about each task that has units left."""

    retries: dict[int, Rule] = field(default_factory=dict)
    stopped: dict[int, str] = field(default_factory=dict)  # task index -> why it may not be retried
    spent: dict[int, int] = field(default_factory=dict)  # task index -> ends that were counted so far
    exclude: str = ""  # nodes that failed, separated by commas

    @property
    def why(self) -> str:
        """Each cause with the number of its tasks, such as `3 × preempted: runs again, not counted`."""
        messages = [rule.message for rule in self.retries.values()] or [*self.stopped.values()]
        return "; ".join(f"{n} × {line}" if n > 1 else line for line, n in Counter(messages).most_common())


def last_jobs(plan: Plan, tasks: list[int]) -> dict[int, slurm.Job]:
    """The newest job of each task as accounting knows it; waits as long as accounting may lag behind.

    A job that accounting does not know, or that is not over by then, is in state UNKNOWN; so are all without accounting.
    A task that was never submitted is WAITING. An element that never began and is unknown although its array is known
    was cancelled while it was pending, of which Slurm keeps no record: REMOVED. A row with the id of one of these jobs
    and another name is ignored, because Slurm reuses ids.
    """
    newest = attempts.newest_arrays(plan.path)
    jobs = {task: newest[task][2] for task in tasks if task in newest}
    names = {task: newest[task][1].name for task in jobs}
    end = time.monotonic() + LAG_S
    while True:
        try:
            history = slurm.history(sorted({job.split("_")[0] for job in jobs.values()}))
        except UserError:
            history, end = {}, 0.0
        ended = {
            task: history[job]
            for task, job in jobs.items()
            if job in history and history[job].state not in UNFINISHED and history[job].name in (names[task], "")
        }
        if time.monotonic() >= end or len(ended) == len(jobs):
            own_names = ("", *names.values())
            arrays = {job.split("_")[0] for job, row in history.items() if "_" in job and row.name in own_names}
            return {task: ended.get(task) or _without_record(plan, jobs.get(task, ""), arrays) for task in tasks}
        time.sleep(1)


def _without_record(plan: Plan, job: str, arrays: set[str]) -> slurm.Job:
    """The state of a job that accounting does not know. arrays: arrays of which it knows other elements."""
    if not job:
        return slurm.Job("", "WAITING")
    array, _, element = job.partition("_")
    began = any((plan.path / "out").glob(f"*.{job}-*.log"))
    return slurm.Job(job, "REMOVED" if element and array in arrays and not began else "UNKNOWN")


def upstream_complete(plan: Plan) -> bool:
    """True if all stages that this one follows are done."""
    return all(not read(plan.path.parent / edge.stage).missing() for edge in plan.after)


def judge(plan: Plan, max_attempts: int) -> Verdict:
    """Decide for each open task separately: one that may not run again does not stop the others."""
    tasks, submissions = plan.open_tasks(), attempts.read(plan.path)
    jobs, progress = last_jobs(plan, tasks), plan.progress()
    failed = _failures(plan, submissions)
    counted = submissions[-1].spent if submissions else {}
    retries, stopped, spent = {}, {}, {}
    for task in tasks:
        rows = failed.get(task, [])
        state = _state(jobs[task], rows)
        before = next((row.progress[task] for row in reversed(submissions) if task in row.progress), Progress())
        if state == "TIMEOUT" and not progress.get(task, Progress()).exceeds(before):
            state = "STUCK"
        rule = RULES.get(state, RULES["UNKNOWN"])
        spent[task] = counted.get(task, 0) + rule.counted
        if why := _why_stopped(rule, state, rows, spent[task], max_attempts):
            stopped[task] = why
        else:
            retries[task] = rule
    bad = {jobs[task].nodes for task, rule in retries.items() if rule.exclude_node and jobs[task].nodes}
    return Verdict(retries, stopped, spent, ",".join(sorted(bad)))


def is_hopeless(rows: list[dict[str, Any]]) -> bool:
    """True if what a task raised will be raised again: an error for the user, or the same error `MAX_FAILURES` times."""
    return any(row["for_user"] for row in rows) or _most_frequent(rows) >= MAX_FAILURES


def _most_frequent(rows: list[dict[str, Any]]) -> int:
    """How often the most frequent failure happened; failures are the same if they were raised at the same place."""
    kinds = Counter(
        (row["type"], row["message"] if row["for_user"] else tuple(row["where"]))
        for row in rows
        if row["type"] != UPSTREAM_INCOMPLETE
    )
    return max(kinds.values(), default=0)


def _why_stopped(rule: Rule, state: str, rows: list[dict[str, Any]], spent: int, max_attempts: int) -> str:
    """Why a task may not be retried; empty if it may."""
    if any(row["for_user"] for row in rows):
        return str(next(row["message"] for row in reversed(rows) if row["for_user"]))
    if _most_frequent(rows) >= MAX_FAILURES:
        return f"The same {rows[-1]['type']} came twice: {rows[-1]['message'][:300]}"
    if not rule.retry:
        return rule.message
    if rule.counted and spent >= max_attempts:
        return f"{spent} attempts, the limit of this cluster, have not finished it (last: {state})."
    return ""


def _failures(plan: Plan, submissions: list[Attempt]) -> dict[int, list[dict[str, Any]]]:
    """What each task raised since a person last submitted it: one row for each execution, of its first rank to fail.

    That a rank lost another one is not a failure of its own: the end of the other decides.
    """
    first = max((index for index, attempt in enumerate(submissions) if attempt.by == "person"), default=0)
    jobs = {job for attempt in submissions[first:] for job in attempt.jobs}
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for row in failures.read(plan.path):
        if row["type"] != LOST_PEER and row["attempt"].split("_")[0].split("-")[0] in jobs:
            rows.setdefault((int(row["task"]), row["attempt"]), row)
    by_task: dict[int, list[dict[str, Any]]] = {}
    for (task, _), row in rows.items():
        by_task.setdefault(task, []).append(row)
    return by_task


def _state(job: slurm.Job, rows: list[dict[str, Any]]) -> str:
    """Slurm's state of a task's last job, corrected where its exit code says more."""
    last = next((row for row in reversed(rows) if row["attempt"].split("-")[0] == job.id), None)
    if last and last["type"] == UPSTREAM_INCOMPLETE:
        return "DEPENDENCY"
    if job.state == "FAILED" and job.exit.startswith(f"{PARKED}:"):
        return "TIMEOUT"
    if job.state == "FAILED" and job.exit.startswith(f"{INTERRUPTED}:"):
        return "PREEMPTED"
    return "OUT_OF_MEMORY" if job.state == "FAILED" and job.exit in KILLED and last is None else job.state
