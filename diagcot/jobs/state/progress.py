"""How far the tasks of a stage have come, so that a task that only reached its time limit is not taken for one that is stuck."""

import contextlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from diagcot.jobs.state import documents
from diagcot.jobs.state.records import OF


class Progress(NamedTuple):
    """How far one task has come. Each figure only grows while the task makes progress."""

    units: int = 0
    """Units that are done."""
    record_bytes: int = 0
    """Bytes of the finished records of its other units."""
    steps: int = 0
    """The last reported position in its present unit, in thousandths of what the unit counts."""

    def exceeds(self, earlier: "Progress") -> bool:
        """True if the task has made progress since `earlier`."""
        return any(now > before for now, before in zip(self, earlier, strict=True))


def record_bytes(stage_dir: Path) -> dict[str, int]:
    """Unit key -> bytes of its finished records, over all its executions."""
    sizes: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(stage_dir / "partial") as entries:
        for entry in entries:
            key = entry.name.partition(OF)[0]
            sizes[key] = sizes.get(key, 0) + entry.stat().st_size
    return sizes


def reported_steps(stage_dir: Path) -> dict[int, int]:
    """Task index -> the position that it last reported, in thousandths of what its unit counts."""
    steps: dict[int, int] = {}
    for path in (stage_dir / "progress").glob("[!.]*.json"):
        if path.stem.isdecimal() and (report := documents.find(path, documents.PROGRESS)):
            steps[int(path.stem)] = int(report["done"] * 1000)
    return steps


def last_report(stage_dir: Path, task_index: int) -> dict[str, Any] | None:
    """What a task last wrote by `Context.progress`; None if it has written nothing, or the file is damaged."""
    return documents.find(stage_dir / "progress" / f"{task_index:05d}.json", documents.PROGRESS) or None
