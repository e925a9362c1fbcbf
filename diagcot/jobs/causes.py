"""Why a task ended without finishing its units, and what follows from it (design: causes decide)."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from diagcot.jobs.errors import UserError
from diagcot.jobs.execution.worker import PARKED
from diagcot.jobs.plans.plan import Plan, read
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts, failures
from diagcot.jobs.state.attempts import Attempt
from diagcot.jobs.state.failures import LOST_PEER, UPSTREAM_INCOMPLETE
from diagcot.jobs.state.progress import Progress

MAX_FAILURES = 2  # the same failure of one task this often: stop and show it
LAG_S = 15  # accounting was seen up to 4 s behind the queue
UNFINISHED = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "RESIZING", "SUSPENDED")
# How a job ends that the kernel or Slurm killed for its memory; srun reports a task that Slurm killed as 9.
KILLED = ("137:0", "9:0", "0:9", "125:0", "0:125")


@dataclass(frozen=True)
class Rule:
    retry: bool
    counted: bool = False  # against the cluster's max_attempts
    more_memory: bool = False
    more_time: bool = False
    exclude_node: bool = False
    say: str = ""


RULES: dict[str, Rule] = {
    "PREEMPTED": Rule(True, say="preempted: runs again, free of charge"),
    "NODE_FAIL": Rule(True, exclude_node=True, say="the node failed: runs again elsewhere"),
    "BOOT_FAIL": Rule(True, exclude_node=True, say="the node did not boot: runs again elsewhere"),
    "TIMEOUT": Rule(True, say="time limit: goes on from its last record or checkpoint"),
    "STUCK": Rule(True, counted=True, more_time=True, say="time limit without progress: runs again with more time"),
    "OUT_OF_MEMORY": Rule(True, counted=True, more_memory=True, say="out of memory: runs again with more"),
    "FAILED": Rule(True, counted=True, say="failed: tried once more"),
    "COMPLETED": Rule(True, counted=True, say="ended before its units were done: goes on"),
    "CANCELLED": Rule(False, say="cancelled by a person: never retried by itself"),
    "REMOVED": Rule(
        False, say="taken out of the queue before it began, by a person's scancel: never retried by itself"
    ),
    "DEPENDENCY": Rule(True, say="what it follows had failed and was run again"),
    "WAITING": Rule(True, say="the submit limit had no room for it before"),
    "DEADLINE": Rule(False, say="its deadline passed"),
    "UNKNOWN": Rule(True, counted=True, say="Slurm does not tell why it ended"),
}


@dataclass(frozen=True)
class Verdict:
    """What becomes of each task that has units left."""

    again: dict[int, Rule] = field(default_factory=dict)
    stopped: dict[int, str] = field(default_factory=dict)  # task -> why it may not be tried again
    spent: dict[int, int] = field(default_factory=dict)  # ends that counted so far
    exclude: str = ""  # nodes that failed under the stage

    @property
    def why(self) -> str:
        """Each cause with the number of its tasks: `3 × preempted: runs again, free of charge`."""
        told = Counter(rule.say for rule in self.again.values()) if self.again else Counter(self.stopped.values())
        return "; ".join(f"{count} × {say}" if count > 1 else say for say, count in told.most_common())


def last_jobs(plan: Plan, tasks: list[int]) -> dict[int, slurm.Job]:
    """The newest job of each task as accounting has it, waited for as long as accounting may lag behind.

    A job that it does not know, or that is not over by then, is in state UNKNOWN; so are all without accounting. A task
    that was never submitted is WAITING. An element that never began and is unknown although its array is known was
    cancelled while it was pending, of which Slurm keeps no record: REMOVED. An id that is now another job's (ids are
    reused) is not mixed up with it.
    """
    newest = attempts.newest_arrays(plan.path)
    wanted = {task_index: newest[task_index][2] for task_index in tasks if task_index in newest}
    names = {task_index: newest[task_index][1].name for task_index in wanted}
    end = time.monotonic() + LAG_S
    while True:
        try:
            history = slurm.history(sorted({job.split("_")[0] for job in wanted.values()}))
        except UserError:
            history, end = {}, 0.0
        found = {
            task_index: history[job]
            for task_index, job in wanted.items()
            if job in history and history[job].state not in UNFINISHED and history[job].name in (names[task_index], "")
        }
        if time.monotonic() >= end or len(found) == len(wanted):
            known = {
                job.split("_")[0] for job, row in history.items() if "_" in job and row.name in ("", *names.values())
            }
            return {
                task_index: found.get(task_index) or _without_record(plan, wanted.get(task_index, ""), known)
                for task_index in tasks
            }
        time.sleep(1)


def _without_record(plan: Plan, job: str, known: set[str]) -> slurm.Job:
    """The job of a task that accounting does not tell of; `known`: arrays of which it knows other elements."""
    if not job:
        return slurm.Job("", "WAITING")
    array, _, element = job.partition("_")
    began = any((plan.path / "out").glob(f"*.{job}-*.log"))
    return slurm.Job(job, "REMOVED" if element and array in known and not began else "UNKNOWN")


def upstream_complete(plan: Plan) -> bool:
    """Whether all stages that this one follows are done."""
    return all(not read(plan.path.parent / edge.stage).missing() for edge in plan.after)


def judge(plan: Plan, max_attempts: int) -> Verdict:
    """Decide for each open task by itself: one that may not run again does not hold up the others."""
    tasks = plan.open_tasks()
    made = attempts.read(plan.path)
    jobs = last_jobs(plan, tasks)
    last = made[-1] if made else Attempt(0, "")
    told = _told(plan, made)
    progress = plan.progress()
    again, stopped, spent = {}, {}, {}
    for task_index in tasks:
        rows = told.get(task_index, [])
        state = _state(jobs[task_index], rows)
        before = next(
            (attempt.progress[task_index] for attempt in reversed(made) if task_index in attempt.progress), Progress()
        )
        if state == "TIMEOUT" and not progress.get(task_index, Progress()).exceeds(before):
            state = "STUCK"
        rule = RULES.get(state, RULES["UNKNOWN"])
        spent[task_index] = last.spent.get(task_index, 0) + rule.counted
        same = Counter(
            (row["type"], row["message"] if row["for_user"] else tuple(row["where"]))
            for row in rows
            if row["type"] != UPSTREAM_INCOMPLETE
        )
        if any(row["for_user"] for row in rows):
            stopped[task_index] = next(row["message"] for row in reversed(rows) if row["for_user"])
        elif any(count >= MAX_FAILURES for count in same.values()):
            stopped[task_index] = f"The same {rows[-1]['type']} came twice: {rows[-1]['message'][:300]}"
        elif not rule.retry:
            stopped[task_index] = rule.say
        elif rule.counted and spent[task_index] >= max_attempts:
            stopped[task_index] = (
                f"{spent[task_index]} attempts, the limit of this cluster, have not finished it (last: {state})."
            )
        else:
            again[task_index] = rule
    bad = {jobs[task_index].nodes for task_index, rule in again.items() if rule.exclude_node and jobs[task_index].nodes}
    return Verdict(again, stopped, spent, ",".join(sorted(bad)))


def _told(plan: Plan, made: list[Attempt]) -> dict[int, list[dict[str, Any]]]:
    """What each task raised since a person last submitted it: one row an execution, of the rank that was first.

    That a rank has lost another is no failure of its own: how the other ended decides.
    """
    first = max((index for index, attempt in enumerate(made) if attempt.by == "person"), default=0)
    jobs = {job for attempt in made[first:] for job in attempt.jobs}
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for row in failures.read(plan.path):
        if row["type"] != LOST_PEER and row["attempt"].split("_")[0].split("-")[0] in jobs:
            rows.setdefault((int(row["task"]), row["attempt"]), row)
    told: dict[int, list[dict[str, Any]]] = {}
    for (task_index, _), row in rows.items():
        told.setdefault(task_index, []).append(row)
    return told


def _state(job: slurm.Job, rows: list[dict[str, Any]]) -> str:
    """Slurm's state of a task's last job, where an exit code says more than the state it goes with."""
    last = next((row for row in reversed(rows) if row["attempt"].split("-")[0] == job.id), None)
    if last and last["type"] == UPSTREAM_INCOMPLETE:
        return "DEPENDENCY"
    if job.state == "FAILED" and job.exit.startswith(f"{PARKED}:"):
        return "TIMEOUT"
    return "OUT_OF_MEMORY" if job.state == "FAILED" and job.exit in KILLED and last is None else job.state
