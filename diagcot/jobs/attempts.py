"""The submissions of a stage: `attempts/<n>.json` says which jobs were given which tasks, and why."""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diagcot.jobs.files import create_exclusively


@dataclass(frozen=True)
class Array:
    """One sbatch: element i of `job` runs task `slots[i]`; a single task is a plain job."""

    job: str
    slots: tuple[int, ...]


@dataclass(frozen=True)
class Attempt:
    number: int
    why: str
    arrays: tuple[Array, ...] = ()
    finaliser: str = ""
    dependency: str = ""
    resources: dict[str, Any] = field(default_factory=dict)
    time: float = 0

    @property
    def jobs(self) -> list[str]:
        return [array.job for array in self.arrays] + ([self.finaliser] if self.finaliser else [])


def read(stage_dir: Path) -> list[Attempt]:
    """All submissions of the stage, first to last."""
    found = []
    for path in sorted((stage_dir / "attempts").glob("*.json"), key=lambda p: int(p.stem)):
        row = json.loads(path.read_text(encoding="utf-8"))
        row["arrays"] = tuple(Array(a["job"], tuple(a["slots"])) for a in row["arrays"])
        found.append(Attempt(**row))
    return found


def write(stage_dir: Path, attempt: Attempt) -> None:
    folder = stage_dir / "attempts"
    folder.mkdir(exist_ok=True)
    row = asdict(attempt) | {"time": time.time()}
    if not create_exclusively(folder / f"{attempt.number}.json", json.dumps(row, indent=1) + os.linesep):
        raise FileExistsError(f"{folder}/{attempt.number}.json: two launchers submit the same stage at once")
