"""Reads the files of a run (`logs/README.md` lists them); nothing here ever writes."""

import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def plans(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The plan.json of every stage of the run."""
    try:
        folders = list(run_dir.iterdir())
    except FileNotFoundError:
        return
    for folder in folders:
        path = folder / "plan.json"
        if path.is_file():
            yield plan_of(path, path.stat().st_ino)


@functools.lru_cache(maxsize=256)
def plan_of(path: Path, inode: int) -> dict[str, Any]:
    """Plans never change; a run that was removed and made anew has another inode."""
    plan: dict[str, Any] = json.loads(path.read_bytes())
    return plan


@functools.lru_cache(maxsize=64)
def unit_keys(path: Path, inode: int) -> tuple[str, ...]:
    """Keys of units.jsonl in plan order."""
    with path.open("rb") as lines:
        return tuple(json.loads(line)["key"] for line in lines)


def times(folder: Path, suffix: str) -> dict[str, float]:
    """Stem -> time of writing of the visible files of a folder, by one listing."""
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name.removesuffix(suffix): entry.stat().st_mtime
                for entry in entries
                if entry.name.endswith(suffix) and entry.name[0] != "."
            }
    except FileNotFoundError:
        return {}


def newest_logs(path: Path) -> dict[str, tuple[str, float]]:
    """Task -> (attempt, time of last line) of its newest log; logs of other ranks than the first do not count."""
    newest: dict[str, tuple[str, float]] = {}
    for stem, written in times(path / "out", ".log").items():
        task, _, attempt = stem.partition(".")
        if ".r" not in attempt and written >= newest.get(task, ("", 0.0))[1]:
            newest[task] = (attempt, written)
    return newest


def progress_of(path: Path, slot: int) -> dict[str, Any] | None:
    """What task `slot` last said of itself."""
    try:
        row: dict[str, Any] = json.loads((path / "progress" / f"{slot:05d}.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return row


def attempts_of(path: Path) -> list[dict[str, Any]]:
    """The submissions of the stage, first to last."""
    names = sorted(times(path / "attempts", ".json"), key=lambda name: int(name) if name.isdigit() else 0)
    return [json.loads((path / "attempts" / f"{name}.json").read_bytes()) for name in names]


def ids_of(attempt: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """(task, job id) of one submission."""
    for array in attempt.get("arrays", ()):
        slots = array["slots"]
        for index, slot in enumerate(slots):
            yield slot, f"{array['job']}_{index}" if len(slots) > 1 else array["job"]


def job_ids(run_dir: Path) -> list[str]:
    """Every job (or array) that was ever submitted for the run, for one call of sacct."""
    found = [
        a["job"] for plan in plans(run_dir) for t in attempts_of(run_dir / plan["stage"]) for a in t.get("arrays", ())
    ]
    return list(dict.fromkeys(found))


def started(path: Path) -> float | None:
    """When the first task began: the first line of the events."""
    try:
        with (path / "events.jsonl").open("rb") as lines:
            return float(json.loads(lines.readline())["time"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
