"""Where a run stands, from its directory: files say what is done, Slurm (if asked) what is alive and why not.

A unit is done if `done/<unit>.json` exists; nothing else makes it so. A task that is not done is running, pending,
failed or, where neither its files nor Slurm tell, unknown.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagcot.console.state import cost
from diagcot.console.state.executor import ALIVE, QUEUED, Answer, Job
from diagcot.jobs.plans import segments, stored
from diagcot.jobs.state import attempts as submissions
from diagcot.jobs.state import failures as raised
from diagcot.jobs.state import ledger
from diagcot.jobs.state.attempts import Attempt
from diagcot.jobs.state.executions import Logs, begun, first_event, gpu_hours, logs_of, retries
from diagcot.jobs.state.files import changed_at, read_json
from diagcot.jobs.state.processes import is_alive
from diagcot.jobs.state.progress import last_report

FRESH_S = 120  # a log or progress file this young means that its task lives, where its process cannot be asked
WINDOW_S = 600  # throughput is that of the last ten minutes
SAMPLE = 4000  # manifests whose age is looked at for it
FEW = 16  # tasks of a stage whose last figures are still worth reading when it is done
ON_ITS_WAY = ("in flight", "waiting")  # figures that count things under way
WAITING = "WAITING"  # reason of tasks that no submission had room for (as in `diagcot.jobs.causes`)


@dataclass(frozen=True)
class Task:
    """A task that is not done. `left`: units still to do; `fraction`: how far its present unit is, 0 to 1.

    again: it has run before and is queued or running once more.
    """

    slot: int
    state: str  # running | pending | failed | unknown
    left: int
    unit: str = ""
    fraction: float = 0.0
    host: str = ""
    reason: str = ""
    again: bool = False
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One stage: units by state (they add up to `units`; `retrying` are among them), times in seconds, `rate` in units
    a second, GPU-hours spent and left."""

    name: str
    number: str
    kind: str
    path: Path
    resources: Mapping[str, Any]
    units: int
    done: int
    running: int
    pending: int
    failed: int
    unknown: int
    retrying: int
    tasks: int
    attempts: int  # submissions
    retries: int  # executions beyond the first of each task
    failures: int  # executions that left a message of what they raised
    fraction: float
    elapsed: float | None
    rate: float | None
    eta: float | None
    gpu_spent: float
    gpu_left: float
    figures: Mapping[str, Any]
    reasons: Mapping[str, int]
    startup: float  # share of start-up in the time of its tasks, once it is done
    why: str  # what stopped it, if its finaliser has ended it
    finaliser: Job | None  # the job that ends the stage, where Slurm knows it
    finaliser_id: str
    after: tuple[tuple[str, bool], ...]
    live: tuple[Task, ...]
    yields: str  # the count of what it is for, and the stages whose cost belongs to that
    yields_from: tuple[str, ...]

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
    """A run as a look at its files and at Slurm shows it."""

    name: str
    path: Path
    time: float
    stages: tuple[Stage, ...]
    note: str = ""  # what the executor could not tell
    ended: bool = False  # nobody works on it now

    def blocked(self, stage: Stage) -> bool:
        """Whether a stage that this one follows has failed, so that nothing is wrong with this one itself."""
        states = {known.name: known.failed or known.why for known in self.stages}
        return any(states.get(name) for name, _ in stage.after)

    @property
    def state(self) -> str:
        """done | failed (nothing moves any more) | running | unknown | pending."""
        states = {stage.state for stage in self.stages}
        if states <= {"done"}:
            return "done" if states else "pending"
        if any(stage.running for stage in self.stages):
            return "running"
        return next((name for name in ("failed", "unknown") if name in states), "pending")


def snapshot(run_dir: Path, answer: Answer | None = None, now: float | None = None) -> Run:
    """The run at this moment, with what its executor said of its jobs."""
    now, answer = time.time() if now is None else now, answer or Answer()
    stages = tuple(_stage(run_dir / plan["stage"], plan, answer, now) for plan in stored.plans(run_dir))
    ended = answer.ended or all(stage.state == "done" for stage in stages)
    return Run(run_dir.name, run_dir, now, stages, answer.note, ended)


def _stage(path: Path, plan: dict[str, Any], answer: Answer, now: float) -> Stage:
    units, tasks = plan["units"], plan["tasks"]
    for _ in range(
        2
    ):  # again where a process is gone: it may have published its last unit since the manifests were read
        finished = ledger.done_manifests(path)  # before the logs: what has no log then has no manifest either
        logs, attempts, done = logs_of(path), submissions.read(path), min(units, len(finished))
        failures = raised.executions(path)
        damage = stored.damage(path, plan) if done < units else ""
        open_tasks = _left(path, plan, finished, logs) if done < units and not damage else {}
        live = _live(path, open_tasks, logs, failures, attempts, answer, now) if open_tasks else []
        if not any(task.state == "unknown" for task in live):
            break
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
    if damage:  # which units are left is not known, and no task can go on
        counts["failed"] = units - done
    worked = done + sum(task.fraction for task in live if task.state == "running")
    began = first_event(path)
    finaliser = next((attempt.finaliser for attempt in reversed(attempts) if attempt.finaliser), "")
    why = damage or (_why(path, len(attempts)) if done < units else "")
    over = path / "done" if done == units else path / "summary.json" if why else None
    last = (over and changed_at(over)) or now
    elapsed = max(0.0, last - began) if began is not None else None
    fresh, earlier = _since_it_grew(path, plan, began, done)
    since = max(0.0, last - fresh) if fresh and not damage else None
    rate = _rate(path, plan, finished, logs, live, worked - earlier, since, last)
    running = {f"{task.slot:05d}" for task in live if task.state == "running"}
    spent = gpu_hours(path, cost.gpus(plan), logs, running, now)
    rows = [task.figures for task in live if task.figures]
    if not rows and tasks <= FEW:
        rows = [row.get("figures", {}) for slot in range(tasks) if (row := last_report(path, slot))]
    summary = (read_json(path / "summary.json") or {}) if done == units else {}
    return Stage(
        name=plan["stage"], number=str(plan.get("number", "")), kind=plan.get("kind", ""), path=path,
        resources=plan["resources"], units=units, done=done, **counts,
        retrying=sum(task.left for task in live if task.again), tasks=tasks, attempts=len(attempts),
        retries=retries(logs), failures=len(failures),
        fraction=worked / units if units else 1.0, elapsed=elapsed, rate=rate,
        eta=(units - worked) / rate if rate and counts["running"] else None,
        gpu_spent=spent, gpu_left=cost.left(plan, spent, worked), figures=_join(rows, done == units) | cost.got(summary),
        reasons=reasons, startup=cost.startup(summary), why=why, finaliser=answer.jobs.get(finaliser), finaliser_id=finaliser,
        after=tuple((edge["stage"], bool(edge.get("each"))) for edge in plan.get("after", ())), live=tuple(live),
        yields=plan.get("yields", ""), yields_from=tuple(plan.get("yields_from", ())),
    )  # fmt: skip


def _left(path: Path, plan: Mapping[str, Any], finished: frozenset[bytes], logs: Logs) -> dict[int, int]:
    """Task -> units left, of the tasks that have some.

    A task works through its units in order, so the last one's manifest speaks for all of them, and a task without a
    log has none. Where the sum shows that this does not hold (a unit was taken back), every unit is looked up.
    """
    cut = segments.of_plan(plan)
    sizes = {slot: end - first for slot in range(plan["tasks"]) for first, end in [segments.bounds(cut, slot)]}
    if not finished:
        return sizes
    listing = stored.task_lines(path, plan)
    ended = {slot for slot in sizes if listing.last[slot] in finished}
    done = {slot: sizes[slot] for slot in ended}
    for name in logs:
        if (slot := int(name)) in sizes and slot not in ended:
            done[slot] = len(finished.intersection(listing.manifests(slot)))
    if sum(done.values()) != len(finished):
        done = {slot: len(finished.intersection(listing.manifests(slot))) for slot in sizes}
    return {slot: size - done.get(slot, 0) for slot, size in sizes.items() if size > done.get(slot, 0)}


def _live(
    path: Path,
    open_tasks: Mapping[int, int],
    logs: Logs,
    failures: set[tuple[str, str]],
    attempts: list[Attempt],
    answer: Answer,
    now: float,
) -> list[Task]:
    """The tasks that have units left, each with its state."""
    ids = {slot: job for attempt in attempts for slot, job in attempt.task_jobs()}
    asked = {slot: attempt.time for attempt in attempts for slot, _ in attempt.task_jobs()}
    unlogged = {task for task, _ in failures}  # counts for tasks without logs, those of `executor: debug`
    found = []
    for slot, left in open_tasks.items():
        name = f"{slot:05d}"
        mine = logs.get(name, [])
        token, written = mine[-1] if mine else ("", 0.0)
        if asked.get(slot, 0.0) > written:  # submitted again since: what the last attempt left is history
            token, written = "", 0.0
        row = (last_report(path, slot) or {}) if token else {}
        if row.get("attempt") != token:
            row = {}
        job, broke = answer.jobs.get(ids.get(slot, "")), (name, token) in failures
        broke = broke or (not mine and slot not in ids and name in unlogged)
        if job is not None and not (token and job.state in QUEUED and written > answer.time):
            state, reason = _from_slurm(job, broke)
        elif broke:
            state, reason = "failed", ""
        elif slot not in ids and ids and not answer.local:
            state, reason = "pending", WAITING
        elif (answer.ended and not answer.asked) or written < answer.since:
            state, reason = "pending", ""  # a runner that has just begun has not said yet what it will start again
        else:
            gone = job is None and slot in ids and answer.asked and asked[slot] <= answer.time
            state, reason = _from_files(row, token, written, gone, now), ""
        total = row.get("total") or 0
        found.append(
            Task(
                slot,
                state,
                left,
                unit=row.get("unit", ""),
                fraction=min(1.0, row["done"] / total) if total else 0.0,
                host=row.get("host", ""),
                reason=reason,
                again=state in ("running", "pending")
                and len(mine) > (state == "running" and bool(token))
                and not answer.ended,
                figures=row.get("figures", {}),
            )
        )
    return found


def _from_slurm(job: Job, broke: bool) -> tuple[str, str]:
    """(state, reason) of a task whose job Slurm knows. `broke`: it left a message of its own."""
    if job.state in ALIVE:
        return "running", ""
    if job.state in QUEUED:
        return "pending", job.reason if job.reason != "None" else ""
    if job.state == "DEPENDENCY":  # cancelled by Slurm because what it follows failed; it goes on with that
        return "pending", job.state
    return "failed", "" if broke else job.state


def _from_files(row: Mapping[str, Any], token: str, written: float, gone: bool, now: float) -> str:
    """State of a task by its files alone. `gone`: Slurm was asked and knows nothing of a job that it was given."""
    if not token:
        return "unknown" if gone else "pending"
    if row and row["host"] == os.uname().nodename:
        return "running" if is_alive(row["pid"]) else "unknown"
    return "running" if now - max(written, row.get("time", 0)) < FRESH_S and not gone else "unknown"


def _why(path: Path, attempts: int) -> str:
    """What the finaliser says stopped the stage, unless the stage was submitted again since."""
    summary = read_json(path / "summary.json") or {}
    current = summary.get("state") == "failed" and summary.get("attempts", attempts) == attempts
    return str(summary.get("why", "")) if current else ""


def _since_it_grew(path: Path, plan: Mapping[str, Any], began: float | None, done: int) -> tuple[float | None, int]:
    """When the work that goes on began, and how many units were done before: days may lie before a plan that has grown."""
    *before, newest = segments.of_plan(plan)
    if not before:
        return began, 0
    starts = (start for start in begun(path).values() if start >= newest.time)
    return min(starts, default=None), min(done, sum(part.units for part in before))


def _rate(
    path: Path,
    plan: Mapping[str, Any],
    finished: frozenset[bytes],
    logs: Logs,
    live: Sequence[Task],
    worked: float,
    elapsed: float | None,
    now: float,
) -> float | None:
    """Units a second: of the last ten minutes where enough were finished in them, else over the stage's life."""
    if not elapsed or not worked:
        return None
    if elapsed > WINDOW_S and (recent := _recent(path, plan, finished, logs, live, now - WINDOW_S)) >= 5:
        return recent / WINDOW_S
    return worked / elapsed


def _recent(
    path: Path, plan: Mapping[str, Any], finished: frozenset[bytes], logs: Logs, live: Sequence[Task], since: float
) -> float:
    """Units finished since then. Only tasks that are at work or wrote since then can have any; of many, a sample."""
    busy = {f"{task.slot:05d}" for task in live if task.state == "running"}
    busy |= {name for name, mine in logs.items() if mine[-1][1] >= since}
    listing = stored.task_lines(path, plan)
    slots = [slot for name in sorted(busy) if (slot := int(name)) < plan["tasks"]]
    every = max(1, len(slots) * plan["units"] // plan["tasks"] // SAMPLE)
    mine = [name for slot in slots for name in listing.manifests(slot, slot % every, every) if name in finished]
    return sum(age > since for age in ledger.written_at(path, mine)) * every


def _join(rows: list[Mapping[str, Any]], done: bool = False) -> dict[str, Any]:
    """Figures of several tasks as one: rates (`…/s`) and what is on its way add up, other numbers are averaged, of words
    the last stays. done: nothing is on its way any more."""
    joined: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        if done and name in ON_ITS_WAY:
            continue
        values = [row[name] for row in rows if name in row]
        numbers = [value for value in values if isinstance(value, (int, float))]
        if not numbers:
            joined[name] = values[-1]
        else:
            joined[name] = sum(numbers) if name.endswith("/s") or name in ON_ITS_WAY else sum(numbers) / len(numbers)
    return joined
