"""Where a run stands, from its directory: files say what is done, Slurm (if asked) what is alive and why not.

A unit is done if `done/<unit>.json` exists; nothing else makes it so. A task that is not done is running, pending,
failed or, where neither its files nor Slurm tell, unknown.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from diagcot.console.run_files import attempts_of, ids_of, newest_logs, plans, progress_of, started, times, unit_keys

FRESH_S = 120  # a log or progress file this young means that its task lives, where its process cannot be asked
WINDOW_S = 600  # throughput is that of the last ten minutes
FEW = 16  # tasks of a stage whose last figures are still worth reading when it is done
ALIVE = {"RUNNING", "COMPLETING", "STOPPED", "SUSPENDED", "SIGNALING", "STAGE_OUT"}
QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}


class Job(Protocol):
    """What is needed of a row of squeue or sacct (see `diagcot.jobs.slurm.Job`)."""

    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...


@dataclass(frozen=True)
class Task:
    """A task that is not done. `left`: units still to do; `fraction`: how far its present unit is, 0 to 1."""

    slot: int
    state: str  # running | pending | failed | unknown
    left: int
    unit: str = ""
    fraction: float = 0.0
    host: str = ""
    reason: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One stage: units by state (they add up to `units`), times in seconds, `rate` in units a second."""

    name: str
    number: str
    kind: str
    path: Path
    units: int
    done: int
    running: int
    pending: int
    failed: int
    unknown: int
    tasks: int
    attempts: int
    fraction: float
    elapsed: float | None
    rate: float | None
    eta: float | None
    figures: Mapping[str, Any]
    reasons: Mapping[str, int]
    after: tuple[tuple[str, bool], ...]
    live: tuple[Task, ...]

    @property
    def state(self) -> str:
        """done | failed | running | unknown | pending: the worst that a person should know first."""
        if self.done == self.units:
            return "done"
        for name in ("failed", "running", "unknown"):
            if getattr(self, name):
                return name
        return "pending"


@dataclass(frozen=True)
class Run:
    name: str
    path: Path
    time: float
    stages: tuple[Stage, ...]
    note: str = ""  # what the executor could not tell
    ended: bool = False  # nobody works on it now

    @property
    def state(self) -> str:
        """done | failed (nothing moves any more) | running | unknown | pending."""
        states = {stage.state for stage in self.stages}
        if states <= {"done"}:
            return "done" if states else "pending"
        if any(stage.running for stage in self.stages):
            return "running"
        return next((name for name in ("failed", "unknown") if name in states), "pending")


def snapshot(
    run_dir: Path, jobs: Mapping[str, Job] | None = None, note: str = "", ended: bool = False, now: float | None = None
) -> Run:
    """The run at this moment.

    `jobs`: rows of squeue and sacct by job id, such as `7` or `7_2`, if Slurm was asked. `ended`: nobody works on the
    run now, so that what is neither done nor failed waits to be submitted again.
    """
    now = time.time() if now is None else now
    found = sorted(plans(run_dir), key=lambda plan: (plan.get("created", 0), plan["stage"]))
    stages = tuple(_stage(run_dir / plan["stage"], plan, jobs, ended, now) for plan in found)
    return Run(run_dir.name, run_dir, now, stages, note, ended or all(stage.state == "done" for stage in stages))


def _stage(path: Path, plan: dict[str, Any], jobs: Mapping[str, Job] | None, ended: bool, now: float) -> Stage:
    finished = times(path / "done", ".json")
    units, count = plan["units"], plan["tasks"]
    tasks = [(slot * units // count, (slot + 1) * units // count) for slot in range(count)]  # as Plan.bounds
    attempts = attempts_of(path)
    done = min(units, len(finished))
    live = _live(path, tasks, finished, attempts, jobs, ended, now) if done < units else []
    counts = {"running": 0, "pending": 0, "failed": 0, "unknown": 0}
    reasons: dict[str, int] = {}
    for task in live:
        if task.state == "running":  # one of its units is in work, the rest waits behind it
            counts["running"] += 1
            counts["pending"] += task.left - 1
        else:
            counts[task.state] += task.left
        if task.reason:
            reasons[task.reason] = reasons.get(task.reason, 0) + task.left
    worked = done + sum(task.fraction for task in live if task.state == "running")
    began = started(path)
    last = max(finished.values(), default=now) if done == units else now
    elapsed = max(0.0, last - began) if began is not None else None
    rate = _rate(list(finished.values()), worked, elapsed, now if done < units else last)
    rows = [task.figures for task in live if task.figures]
    if not rows and len(tasks) <= FEW:
        rows = [row.get("figures", {}) for slot in range(len(tasks)) if (row := progress_of(path, slot))]
    return Stage(
        name=plan["stage"], number=str(plan.get("number", "")), kind=plan.get("kind", ""), path=path,
        units=units, done=done, **counts, tasks=len(tasks), attempts=len(attempts),
        fraction=worked / units if units else 1.0, elapsed=elapsed, rate=rate,
        eta=(units - worked) / rate if rate and counts["running"] else None,
        figures=_join(rows), reasons=reasons, live=tuple(live),
        after=tuple((edge["stage"], bool(edge.get("each"))) for edge in plan.get("after", ())),
    )  # fmt: skip


def _live(
    path: Path,
    tasks: Sequence[tuple[int, int]],
    finished: Mapping[str, float],
    attempts: list[dict[str, Any]],
    jobs: Mapping[str, Job] | None,
    ended: bool,
    now: float,
) -> list[Task]:
    """The tasks that have units left, each with its state."""
    listing = path / "units.jsonl"
    keys = unit_keys(listing, listing.stat().st_ino)
    logs = newest_logs(path)
    failures = {tuple(name.split(".r")[0].split(".", 1)) for name in times(path / "failed", ".json")}
    ids = {slot: job for attempt in attempts for slot, job in ids_of(attempt)}
    asked = {slot: attempt.get("time", 0.0) for attempt in attempts for slot, _ in ids_of(attempt)}
    found = []
    for slot, (first, last) in enumerate(tasks):
        left = last - first - sum(key in finished for key in keys[first:last])
        if not left:
            continue
        name = f"{slot:05d}"
        token, written = logs.get(name, ("", 0.0))
        if asked.get(slot, 0.0) > written:  # submitted again since: what the last attempt left is history
            token, written = "", 0.0
        state = "failed" if (name, token) in failures else ""
        job = jobs.get(ids.get(slot, "")) if jobs is not None else None
        row = (progress_of(path, slot) or {}) if token else {}
        if row.get("attempt") != token:
            row = {}
        if job is not None and job.state in ALIVE | QUEUED:
            state = "running" if job.state in ALIVE else "pending"
        elif job is not None:
            state = "failed"
        elif ended and not state:
            state = "pending"
        elif not state:
            state = _from_files(row, token, written, submitted=slot in ids and jobs is not None, now=now)
        total = row.get("total") or 0
        fraction = min(1.0, row["done"] / total) if total else 0.0
        reason = job.reason if job is not None and state == "pending" and job.reason != "None" else ""
        if state == "failed" and job is not None and (name, token) not in failures:
            reason = job.state
        found.append(
            Task(slot, state, left, row.get("unit", ""), fraction, row.get("host", ""), reason, row.get("figures", {}))
        )
    return found


def _from_files(row: Mapping[str, Any], token: str, written: float, submitted: bool, now: float) -> str:
    """State of a task by its files alone. `submitted`: Slurm was asked and knows nothing of a job that it was given."""
    if not token:
        return "unknown" if submitted else "pending"
    if row and row["host"] == os.uname().nodename:
        return "running" if _alive(row["pid"]) else "unknown"
    return "running" if now - max(written, row.get("time", 0)) < FRESH_S and not submitted else "unknown"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _rate(finished: list[float], worked: float, elapsed: float | None, now: float) -> float | None:
    """Units a second: of the last ten minutes where enough were finished in them, else over the stage's life."""
    if not elapsed or not worked:
        return None
    recent = sum(when > now - WINDOW_S for when in finished)
    if elapsed > WINDOW_S and recent >= 5:
        return recent / WINDOW_S
    return worked / elapsed


def _join(rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of several tasks as one: rates (`…/s`) add up, other numbers are averaged, of words the last stays."""
    joined: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row]
        numbers = [value for value in values if isinstance(value, (int, float))]
        if not numbers:
            joined[name] = values[-1]
        else:
            joined[name] = sum(numbers) if name.endswith("/s") else sum(numbers) / len(numbers)
    return joined
