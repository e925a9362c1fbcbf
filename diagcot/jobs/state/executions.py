"""The executions of a stage's tasks: when each began and last wrote, retries, failures and GPU-hours.

Screens, `summary.json` and the report all count with these functions, so that they cannot disagree.
"""

import contextlib
import functools
import json
import os
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagcot.jobs.state import documents, failures, reading

Logs = dict[str, list[tuple[str, float]]]
_EVENT = {"time": float, "event?": str, "task?": str, "attempt?": str}


@dataclass(frozen=True)
class Executions:
    """The executions of a stage in figures."""

    retries: int
    """Executions beyond the first of each task."""
    failures: int
    """Executions that raised an error."""
    gpu_hours: float
    """Of all executions, those that failed included."""


def executions(stage_dir: Path, gpus: int) -> Executions:
    """The figures of a stage on which nothing runs. gpus: GPUs of one task."""
    logs = logs_of(stage_dir)
    return Executions(retries(logs), len(failures.executions(stage_dir)), gpu_hours(stage_dir, gpus, logs))


def retries(logs: Logs) -> int:
    """Executions beyond the first of each task."""
    return sum(len(executions) - 1 for executions in logs.values())


def logs_of(stage_dir: Path) -> Logs:
    """Task -> (attempt, time of its last line) of each of its logs, the newest last; logs of other ranks do not count."""
    logs: Logs = {}
    try:
        with os.scandir(stage_dir / "out") as entries:
            for entry in entries:
                task, _, attempt = entry.name.removesuffix(".log").partition(".")
                if entry.name.endswith(".log") and ".r" not in attempt:
                    logs.setdefault(task, []).append((attempt, entry.stat().st_mtime))
    except FileNotFoundError:
        pass
    for executions in logs.values():
        executions.sort(key=lambda log: log[1])
    return logs


def first_event(stage_dir: Path) -> float | None:
    """When the first task of a stage began, in seconds since the epoch; None before."""
    try:
        with reading.opened(stage_dir / "events.jsonl") as lines:
            return _event(lines.readline()).get("time")
    except OSError:
        return None


def _event(line: bytes) -> dict[str, Any]:
    """An event, or nothing of a line that is torn or damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return {} if documents.fault(row, _EVENT) else dict(row)


def begun(stage_dir: Path) -> dict[tuple[str, str], float]:
    """(task, attempt) -> when it began, of all executions of a stage."""
    events = stage_dir / "events.jsonl"
    try:
        about = events.stat()
    except OSError:
        return {}
    return _begun(events, about.st_ino, about.st_size)


@functools.lru_cache(maxsize=64)
def _begun(path: Path, inode: int, size: int) -> dict[tuple[str, str], float]:
    starts: dict[tuple[str, str], float] = {}
    with contextlib.suppress(OSError), reading.opened(path) as lines:
        for line in lines:
            row = _event(line)
            if row.get("event") == "started" and "task" in row and "attempt" in row:
                starts.setdefault((row["task"], row["attempt"]), row["time"])
    return starts


def gpu_hours(stage_dir: Path, gpus: int, logs: Logs, running: Container[str] = (), now: float = 0.0) -> float:
    """GPU-hours of all executions so far, those that failed included. gpus: GPUs of one task.

    An execution counts from its start to the last line of its log, or to `now` for the newest one of a `running` task.
    """
    if not gpus:
        return 0.0
    ends = {
        (task, attempt): now if task in running and attempt == executions[-1][0] else written
        for task, executions in logs.items()
        for attempt, written in executions
    }
    began = begun(stage_dir)
    return gpus * sum(max(0.0, ends[run] - began[run]) for run in ends.keys() & began.keys()) / 3600
