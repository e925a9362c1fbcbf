"""What a kind of work sees of the cluster: its paths, ranks, records, progress, and the request to stop."""

import fnmatch
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagcot.jobs.plans.units import Unit
from diagcot.jobs.state.files import append_line, write_json
from diagcot.jobs.state.records import Records


class HeadlessWorkerEnded(Exception):
    """Raised by a kind's `prepare` on a rank that only helped rank 0, when rank 0 needs it no more."""


@dataclass(frozen=True)
class Result:
    """What a unit produced: final path -> staged path (see `Context.staged`), and counts for its manifest."""

    outputs: dict[Path, Path] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Context:
    """What one task of a stage works with, the same on Slurm, on a laptop and in a test."""

    run: str
    stage: str
    settings: dict[str, Any]
    inputs: dict[str, list[str]]  # role -> output roots of the input stages, in the recipe's order
    output: Path  # root of this stage's product
    workspace: Path  # private; kept between attempts: checkpoints, caches, server logs
    stage_dir: Path  # logs/<run>/<stage>
    shards_root: Path
    seed: int
    task: str = "0"
    attempt: str = "0"  # a token of this execution, unique
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    node_rank: int = 0
    nodes: int = 1
    cpus: int = 1
    gpus: int = 0
    units: tuple[Unit, ...] = ()  # of this task, in their order, without those that were done when it began
    startup_s: float = 0.0  # what the kind has spent so far on getting ready, such as starting a model server
    stop: threading.Event = field(default_factory=threading.Event)
    on_progress: Callable[[dict[str, Any]], None] | None = None
    _unit: str = ""
    _written: float = 0.0
    _beaten: float = field(default_factory=time.monotonic)

    def staged(self, final: Path) -> Path:
        """A unique name next to `final` to write a file or folder to; name both in `Result.outputs`."""
        final.parent.mkdir(parents=True, exist_ok=True)
        return final.with_name(f".{final.name}.{self.attempt}")

    def files(self, role: str, pattern: str) -> list[Path]:
        """Files of an input role by name pattern, sorted by stage in the recipe's order, then by name.

        Raises FileNotFoundError that names the stage folder if there is none.
        """
        paths: list[Path] = []
        for root in self.inputs.get(role, []):
            names = sorted(os.listdir(root)) if Path(root).is_dir() else []
            matches = [Path(root) / n for n in names if fnmatch.fnmatch(n, pattern) and not n.startswith(".")]
            if not matches:
                raise FileNotFoundError(
                    f"no {pattern} in {root}, the {role} that stage {self.stage} reads; run that stage"
                )
            paths += matches
        return paths

    def root(self, role: str, stage: str) -> Path:
        """The output root of the input stage of that name. Raises KeyError if the role has no such stage."""
        for root in self.inputs.get(role, []):
            if Path(root).name == stage:
                return Path(root)
        raise KeyError(f"stage {self.stage} has no input {stage} of role {role}")

    def records(self, unit: Unit) -> Records:
        """The finished records of `unit`. Only rank 0 may open them."""
        return Records(self.stage_dir, unit.key, self.attempt)

    def stopping(self) -> bool:
        """True once the task is asked to stop: finish or park what is in flight, then return None from `run`. A beat."""
        self.beat()
        return self.stop.is_set()

    def beat(self) -> None:
        """Give a sign of life. A task that gives none for `hang_minutes` counts as hung, is ended and requeued."""
        self._beaten = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since the last beat."""
        return time.monotonic() - self._beaten

    def progress(self, done: float, total: float | None = None, **figures: float | str) -> None:
        """Report how far the unit is, in any unit of measure, and other figures. A beat.

        Cheap: written at most twice a second, by rank 0.
        """
        self.beat()
        now = time.time()
        if self.rank or (now - self._written < 0.5 and done != total):
            return
        self._written = now
        row = {
            "task": self.task,
            "attempt": self.attempt,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "time": now,
            "unit": self._unit,
            "done": done,
            "total": total,
            "figures": figures,
        }
        folder = self.stage_dir / "progress"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{self.task}.json", row)
        if self.on_progress:
            self.on_progress(row)

    def event(self, name: str, **fields: Any) -> None:
        """Add a line to the stage's events.jsonl (rank 0 only)."""
        if self.rank == 0:
            row = {"time": time.time(), "event": name, "task": self.task, "attempt": self.attempt, **fields}
            append_line(self.stage_dir / "events.jsonl", json.dumps(row, ensure_ascii=False))
