"""The state of a run, from its folder: files say what is done; Slurm, if it was queried, says what runs and what waits.

A unit is done if `done/<unit>.json` exists, and only then. An array task with unfinished units is running, pending, failed
or, if neither its files nor Slurm say, unknown.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diagcot.console.state import cost, storage, throughput
from diagcot.console.state.executor import ExecutorState
from diagcot.console.state.run import Run, Stage, Task
from diagcot.console.state.stage_files import StageFiles
from diagcot.console.state.tasks import unfinished_tasks
from diagcot.jobs.plans import stored
from diagcot.jobs.state import counts as accounts
from diagcot.jobs.state import documents, failures
from diagcot.jobs.state.executions import first_event, gpu_hours, retries
from diagcot.jobs.state.files import changed_at
from diagcot.jobs.state.progress import last_report

FEW_TASKS = 16  # the last figures of a finished stage are shown if it has not more tasks than this


def snapshot(run_dir: Path, executor: ExecutorState | None = None, now: float | None = None) -> Run:
    """The run at this moment. executor: the state of its jobs; without it only files are read."""
    now, executor = time.time() if now is None else now, executor or ExecutorState()
    plans, damage = stored.whole(run_dir)
    stages = tuple(_stage(run_dir / plan["stage"], plan, executor, now) for plan in plans)
    ended = executor.ended or all(stage.state == "done" for stage in stages)
    finished = [plan for plan, stage in zip(plans, stages, strict=True) if stage.state == "done"]
    # What is wrong with the list of an unfinished stage has stopped it: the stage says so.
    damage += filter(None, (stored.damage(run_dir / plan["stage"], plan) for plan in finished))
    if any(stage.state != "done" for stage in stages):
        damage += storage.faults([run_dir, *(Path(plan[name]) for plan in plans for name in ("output", "workspace"))])
    return Run(run_dir.name, run_dir, now, stages, executor.note, ended, tuple(damage))


def _stage(path: Path, plan: dict[str, Any], executor: ExecutorState, now: float) -> Stage:
    files = StageFiles.read(path, plan)
    tasks = unfinished_tasks(files, executor, now)
    if any(task.state == "unknown" for task in tasks):  # it may have finished its last unit since the files were read
        files = StageFiles.read(path, plan)
        tasks = unfinished_tasks(files, executor, now)
    counts = _units_by_state(files, tasks)
    worked = files.done + sum(task.fraction for task in tasks if task.state == "running")
    stop_reason = files.damage or _stop_reason(files)
    last = _end(files, stop_reason) or now
    started = first_event(path)
    rate = throughput.rate(files, tasks, worked, last)
    running = {f"{task.task_index:05d}" for task in tasks if task.state == "running"}
    spent = gpu_hours(path, cost.gpus(plan), files.logs, running, now)
    finaliser = next((attempt.finaliser for attempt in reversed(files.attempts) if attempt.finaliser), "")
    summary = _summary(files)
    return Stage(
        name=plan["stage"],
        number=str(plan.get("number", "")),
        kind=plan.get("kind", ""),
        path=path,
        resources=plan["resources"],
        follows=tuple(edge["stage"] for edge in plan.get("after", ())),
        headline=plan.get("yields", ""),
        headline_from=tuple(plan.get("yields_from", ())),
        units=files.units,
        done=files.done,
        **counts,
        retrying=sum(task.unfinished for task in tasks if task.retried),
        fraction=worked / files.units if files.units else 1.0,
        tasks=files.tasks,
        unfinished_tasks=tasks,
        reasons=_reasons(tasks),
        attempts=len(files.attempts),
        retries=retries(files.logs),
        failures=len(files.failures),
        elapsed=max(0.0, last - started) if started is not None else None,
        rate=rate,
        eta=(files.units - worked) / rate if rate and counts["running"] else None,
        startup_share=cost.startup_share(summary),
        gpu_spent=spent,
        gpu_left=cost.remaining(plan, spent, worked),
        figures=_figures(files, tasks) | cost.serving_figures(summary),
        nothing_of=tuple(accounts.nothing_of(summary.get("counts", {}))),
        losses=tuple(_losses(summary.get("counts", {}))),
        stop_reason=stop_reason,
        fault_in=_fault_in(path) if stop_reason else "",
        finaliser=executor.jobs.get(finaliser),
    )


def _losses(counts: dict[str, Any]) -> Iterator[str]:
    """What a finished stage has lost or refused, by the counts of its summary."""
    if sources := counts.get("sources"):
        yield from accounts.lines(sources, losses_only=True)
    if seen := counts.get("seen_in_training"):
        yield f"{seen:,} test samples were not asked: a model was trained on one of their images (events.jsonl says which way)"
    yield from counts.get("warnings", ())


def _units_by_state(files: StageFiles, tasks: Sequence[Task]) -> dict[str, int]:
    counts = {"running": 0, "pending": 0, "failed": 0, "unknown": 0}
    for task in tasks:
        if task.state == "running":  # one unit of the task is running, the others wait for it
            counts["running"] += 1
            counts["pending"] += task.unfinished - 1
        else:
            counts[task.state] += task.unfinished
    if files.damage:  # it is not known which units are unfinished, and no task can run
        counts["failed"] = files.units - files.done
    return counts


def _reasons(tasks: Sequence[Task]) -> dict[str, int]:
    """Slurm's reason -> number of units that it concerns."""
    reasons: Counter[str] = Counter()
    for task in tasks:
        if task.reason:
            reasons[task.reason] += task.unfinished
    return dict(reasons)


def _stop_reason(files: StageFiles) -> str:
    """Why the finaliser has stopped the stage; empty if it was submitted again since."""
    if files.done == files.units:
        return ""
    summary = documents.find(files.path / "summary.json", documents.SUMMARY)
    attempts = len(files.attempts)
    current = summary.get("state") == "failed" and summary.get("attempts", attempts) == attempts
    return str(summary.get("why", "")) if current else ""


def _fault_in(path: Path) -> str:
    """Where the newest fault of a stage lies; empty if no task has left an error."""
    rows = failures.read(path)
    return failures.fault_of(rows[-1]) if rows else ""


def _end(files: StageFiles, stop_reason: str) -> float | None:
    """When the stage finished or stopped; None if it has not."""
    if files.done == files.units:
        return changed_at(files.path / "done")
    return changed_at(files.path / "summary.json") if stop_reason else None


def _summary(files: StageFiles) -> dict[str, Any]:
    """The summary of a finished stage."""
    return documents.find(files.path / "summary.json", documents.SUMMARY) if files.done == files.units else {}


def _figures(files: StageFiles, tasks: Sequence[Task]) -> dict[str, Any]:
    """The last figures that the tasks reported."""
    reports = [task.figures for task in tasks if task.figures]
    if not reports and files.tasks <= FEW_TASKS:
        last = (last_report(files.path, index) for index in range(files.tasks))
        reports = [report.get("figures", {}) for report in last if report]
    return throughput.join_figures(reports, files.done == files.units)
