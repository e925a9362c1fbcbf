"""The state of each unfinished array task, from its files and from what the executor reports of its job."""

import os
from collections.abc import Mapping
from typing import Any

from diagcot.console.state.executor import ALIVE, QUEUED, ExecutorState, Job
from diagcot.console.state.run import Task
from diagcot.console.state.stage_files import StageFiles
from diagcot.jobs.state.processes import is_alive
from diagcot.jobs.state.progress import last_report

FRESH_S = 120  # a log or progress file this young means that its task lives, if its process cannot be checked
WAITING = "WAITING"  # reason of tasks that the submit limit has kept back (as in `diagcot.jobs.causes`)


def unfinished_tasks(files: StageFiles, executor: ExecutorState, now: float) -> tuple[Task, ...]:
    """The array tasks that have unfinished units, in order."""
    jobs: dict[int, str] = {}
    submitted: dict[int, float] = {}
    for attempt in files.attempts:
        for index, job in attempt.task_jobs():
            jobs[index], submitted[index] = job, attempt.time
    return tuple(
        _task(files, executor, now, index, unfinished, jobs, submitted.get(index, 0.0))
        for index, unfinished in files.unfinished_units().items()
    )


def _task(
    files: StageFiles,
    executor: ExecutorState,
    now: float,
    index: int,
    unfinished: int,
    jobs: Mapping[int, str],
    submitted: float,
) -> Task:
    executions = files.logs.get(f"{index:05d}", [])
    token, written = executions[-1] if executions else ("", 0.0)
    if submitted > written:  # submitted again since: the log belongs to the previous attempt
        token, written = "", 0.0
    report = (last_report(files.path, index) or {}) if token else {}
    if report.get("attempt") != token:
        report = {}
    state, reason = _state(files, executor, now, index, jobs, submitted, token, written, report)
    total = report.get("total") or 0
    earlier = len(executions) - (state == "running" and bool(token))
    return Task(
        index,
        state,
        unfinished,
        unit=report.get("unit", ""),
        fraction=min(1.0, report["done"] / total) if total else 0.0,
        host=report.get("host", ""),
        reason=reason,
        retried=state in ("running", "pending") and earlier > 0 and not executor.ended,
        figures=report.get("figures", {}),
    )


def _state(
    files: StageFiles,
    executor: ExecutorState,
    now: float,
    index: int,
    jobs: Mapping[int, str],
    submitted: float,
    token: str,
    written: float,
    report: Mapping[str, Any],
) -> tuple[str, str]:
    """(state, reason) of a task. token, written: of its last execution's log. report: the progress of that execution."""
    job = executor.jobs.get(jobs.get(index, ""))
    name = f"{index:05d}"
    # Under `executor: debug` tasks have neither logs nor jobs: there any failure of the task counts.
    unlogged = not token and index not in jobs
    raised = (name, token) in files.failures or (unlogged and name in files.failed_tasks)
    if job is not None and not (token and job.state in QUEUED and written > executor.queried_at):
        return _from_slurm(job, raised)
    if raised:
        return "failed", ""
    if index not in jobs and jobs and not executor.local:
        return "pending", WAITING
    if (executor.ended and not executor.queue_known) or written < executor.runner_started:
        return "pending", ""  # a runner that has just started has not yet restarted its tasks
    lost = job is None and index in jobs and executor.queue_known and submitted <= executor.queried_at
    return _from_files(report, token, written, lost, now), ""


def _from_slurm(job: Job, raised: bool) -> tuple[str, str]:
    """(state, reason) of a task whose job Slurm knows. raised: its last execution left an error."""
    if job.state in ALIVE:
        return "running", ""
    if job.state in QUEUED:
        return "pending", job.reason if job.reason != "None" else ""
    if job.state == "DEPENDENCY":  # cancelled by Slurm because an earlier stage failed; it continues with that stage
        return "pending", job.state
    return "failed", "" if raised else job.state


def _from_files(report: Mapping[str, Any], token: str, written: float, lost: bool, now: float) -> str:
    """State of a task from its files alone. lost: Slurm was queried and does not know the task's job."""
    if not token:
        return "unknown" if lost else "pending"
    if report and report["host"] == os.uname().nodename:
        return "running" if is_alive(report["pid"]) else "unknown"
    return "running" if now - max(written, report.get("time", 0)) < FRESH_S and not lost else "unknown"
