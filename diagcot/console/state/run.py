"""A run as the screens show it: its stages, and their unfinished array tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagcot.console.state.executor import Job


@dataclass(frozen=True)
class Task:
    """An array task with unfinished units. state: running, pending, failed or unknown.

    unfinished: number of units. fraction: progress of the current unit, 0 to 1. retried: it has run before, and is queued
    or running again.
    """

    task_index: int
    state: str
    unfinished: int
    unit: str = ""
    fraction: float = 0.0
    host: str = ""
    reason: str = ""
    retried: bool = False
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage. Its units by state add up to `units`; `retrying` are among the running and pending ones."""

    name: str
    number: str
    kind: str
    path: Path
    resources: Mapping[str, Any]
    follows: tuple[str, ...]  # names of the stages that it depends on
    headline: str  # name of its main output count, and the stages whose cost belongs to that count
    headline_from: tuple[str, ...]

    units: int
    done: int
    running: int = 0
    pending: int = 0
    failed: int = 0
    unknown: int = 0
    retrying: int = 0
    fraction: float = 0.0  # of all units, the progress of running ones included, 0 to 1

    tasks: int
    unfinished_tasks: tuple[Task, ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)  # Slurm's reason -> number of units
    attempts: int = 0  # submissions
    retries: int = 0  # executions beyond the first of each array task
    failures: int = 0  # executions that left an error

    elapsed: float | None = None  # seconds since the first execution
    rate: float | None = None  # units per second
    eta: float | None = None  # seconds that remain
    startup_share: float = 0.0  # of start-up in task time, 0 to 1; only of a finished stage
    gpu_spent: float = 0.0  # GPU-hours of all executions
    gpu_left: float = 0.0  # GPU-hours that remain
    figures: Mapping[str, Any] = field(default_factory=dict)

    fault_in: str = ""  # where the fault lies that stopped it
    nothing_of: tuple[str, ...] = ()  # of a finished stage: what it must have some of and has none of
    losses: tuple[str, ...] = ()  # of a finished stage that read collections: what was lost or looks wrong
    stop_reason: str = ""  # why it stopped, if its finaliser has ended it or its files are damaged
    finaliser: Job | None = None  # the job that ends the stage, if Slurm knows it

    @property
    def state(self) -> str:
        """done, failed, running, unknown or pending: the state that needs attention first."""
        if self.done == self.units:
            return "done"
        for name in ("failed", "running", "unknown"):
            if getattr(self, name):
                return name
        return "pending"


@dataclass(frozen=True)
class Run:
    """A run at one time.

    note: what the executor could not report. ended: no job of it is queued or running. damage: what is wrong with its files,
    one line for each.
    """

    name: str
    path: Path
    time: float
    stages: tuple[Stage, ...]
    note: str = ""
    ended: bool = False
    damage: tuple[str, ...] = ()

    def blocked(self, stage: Stage) -> bool:
        """True if an earlier stage has failed, so that nothing is wrong with this one."""
        failed = {known.name for known in self.stages if known.failed or known.stop_reason}
        return not failed.isdisjoint(stage.follows)

    @property
    def state(self) -> str:
        """done, failed (nothing runs any more), running, unknown or pending."""
        states = {stage.state for stage in self.stages}
        if states <= {"done"}:
            return "done" if states else "pending"
        if any(stage.running for stage in self.stages):
            return "running"
        return next((name for name in ("failed", "unknown") if name in states), "pending")
