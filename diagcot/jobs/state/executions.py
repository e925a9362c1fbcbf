"""The executions of a stage's tasks: when each began and last wrote, what was tried again, what failed, what they took.

Screens, `summary.json` and the report count by this one page, so that they cannot disagree.
"""

import functools
import json
import os
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from diagcot.jobs.state import failures

Logs = dict[str, list[tuple[str, float]]]


@dataclass(frozen=True)
class Executions:
    """`retries`: executions beyond the first of each task. `failures`: those that left a message of what they raised.
    `gpu_hours`: of all of them, those that failed included."""

    retries: int
    failures: int
    gpu_hours: float


def executions(stage_dir: Path, gpus: int) -> Executions:
    """What a stage on which nothing runs has taken. gpus: of one task."""
    logs = logs_of(stage_dir)
    return Executions(retries(logs), len(failures.executions(stage_dir)), gpu_hours(stage_dir, gpus, logs))


def retries(logs: Logs) -> int:
    return sum(len(mine) - 1 for mine in logs.values())


def logs_of(stage_dir: Path) -> Logs:
    """Task -> (attempt, time of last line) of each of its logs, the newest last; those of further ranks do not count."""
    found: Logs = {}
    try:
        with os.scandir(stage_dir / "out") as entries:
            for entry in entries:
                task, _, attempt = entry.name.removesuffix(".log").partition(".")
                if entry.name.endswith(".log") and ".r" not in attempt:
                    found.setdefault(task, []).append((attempt, entry.stat().st_mtime))
    except FileNotFoundError:
        pass
    for logs in found.values():
        logs.sort(key=lambda log: log[1])
    return found


def first_event(stage_dir: Path) -> float | None:
    """When the first task of a stage began, in seconds since the epoch; None before."""
    try:
        with (stage_dir / "events.jsonl").open("rb") as lines:
            return float(json.loads(lines.readline())["time"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def begun(stage_dir: Path) -> dict[tuple[str, str], float]:
    """(task, attempt) -> when it began, of all executions there ever were."""
    events = stage_dir / "events.jsonl"
    try:
        about = events.stat()
    except FileNotFoundError:
        return {}
    return _begun(events, about.st_ino, about.st_size)


@functools.lru_cache(maxsize=64)
def _begun(path: Path, inode: int, size: int) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    with path.open("rb") as lines:
        for line in lines:
            try:
                row = json.loads(line)
                if row["event"] == "started":
                    found.setdefault((row["task"], row["attempt"]), row["time"])
            except (ValueError, KeyError):
                continue  # a torn line
    return found


def gpu_hours(stage_dir: Path, gpus: int, logs: Logs, running: Container[str] = (), now: float = 0.0) -> float:
    """GPU-hours of all executions so far, those that failed included: from their start to their log's last line, or to
    `now` for the newest one of a task that is `running`. gpus: of one task."""
    if not gpus:
        return 0.0
    ends = {
        (task, attempt): now if task in running and attempt == mine[-1][0] else written
        for task, mine in logs.items()
        for attempt, written in mine
    }
    began = begun(stage_dir)
    return gpus * sum(max(0.0, ends[run] - began[run]) for run in ends.keys() & began.keys()) / 3600
