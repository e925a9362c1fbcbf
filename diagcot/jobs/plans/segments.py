"""A stage's plan as it stands: `plan.json`, the lists of its units, and what its run has grown by since.

A run grows by `grown/<n>/growth.json`, which is created last and once for all stages: before it exists nothing has
grown. Units that a stage gets are listed in `grown/<n>/<stage>.jsonl`. They come after all that it had and have tasks
of their own after all others: no unit changes its number and no task its units.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diagcot.jobs import owners
from diagcot.jobs.errors import UserError
from diagcot.jobs.state import documents, reading
from diagcot.jobs.state.files import digest

UNITS = "units.jsonl"
SHORTEST = len('{"key": "a"}\n')  # bytes of a line of it, at least
MOST_UNLISTED = 10_000_000  # units of a stage whose list is gone or another one
PATHS = ("stage_dir", "output", "workspace", "shards_root", "code")  # of plan.json


class Segment(NamedTuple):
    """Units that were planned together, cut evenly into `tasks` array tasks."""

    units: int
    tasks: int
    path: str = UNITS
    """The file that lists the units, relative to the stage's folder."""
    time: float = 0
    """When the run grew by them, in seconds since the epoch."""
    sha256: str = ""
    """The digest of that file; empty in plans of the first version."""


def growths(run_dir: Path) -> list[tuple[int, dict[str, Any]]]:
    """(number, content) of every growth.json of the run, first to last. Raises UserError if one is damaged or gone."""
    count = count_growths(run_dir)
    files = [run_dir / "grown" / str(number) / "growth.json" for number in range(1, count + 1)]
    if len(list((run_dir / "grown").glob("*/growth.json"))) > count:
        gone = run_dir / "grown" / str(count + 1) / "growth.json"
        raise documents.damaged(gone, documents.GROWTH, "it is gone, and a later one is there")
    return [(number, documents.read(path, documents.GROWTH)) for number, path in enumerate(files, 1)]


def count_growths(run_dir: Path) -> int:
    """How often the run has grown."""
    return next(n for n in itertools.count() if not (run_dir / "grown" / str(n + 1) / "growth.json").exists())


def current(run_dir: Path, name: str) -> Path:
    """A file that every submission writes, such as recipe.yaml, as the run's newest growth has it."""
    grown = (run_dir / "grown" / str(number) / name for number in range(count_growths(run_dir), 0, -1))
    return next((path for path in grown if path.exists()), run_dir / name)


def header(stage_dir: Path) -> dict[str, Any]:
    """plan.json with all that was added since, and paths as they are now; `grown` holds the further segments.

    Raises FileNotFoundError if the stage has no plan, UserError if the plan or a growth of the run is damaged.
    """
    row = first_header(stage_dir)
    for number, growth in growths(stage_dir.parent):
        addition = growth["stages"].get(stage_dir.name)
        if addition is None:
            continue
        row |= {name: addition[name] for name in ("inputs", "after", "settings")}
        listed = stage_dir.parent / "grown" / str(number) / f"{stage_dir.name}.jsonl"
        if (addition["units"] or addition["tasks"]) and not _fit(addition, listed):
            why = f"the numbers of units and tasks of {stage_dir.name} do not fit, or {listed.name} is shorter"
            raise documents.damaged(listed.parent / "growth.json", documents.GROWTH, why)
        if addition["units"]:
            path = f"../grown/{number}/{stage_dir.name}.jsonl"
            sha256 = addition.get("units_sha256", "")
            row["grown"].append(Segment(addition["units"], addition["tasks"], path, growth["time"], sha256))
            row["units"] += addition["units"]
            row["tasks"] += addition["tasks"]
    if owners.moves(stage_dir):
        row |= {name: owners.now(stage_dir, row[name]) for name in PATHS if row.get(name)}
        row["inputs"] = {role: [owners.now(stage_dir, path) for path in paths] for role, paths in row["inputs"].items()}
    return row


def first_header(stage_dir: Path) -> dict[str, Any]:
    """plan.json as the stage began. Raises as `header`."""
    file = stage_dir / "plan.json"
    row = documents.read(file, documents.PLAN)
    if why := documents.fault_of_paths(row):
        raise documents.damaged(file, documents.PLAN, why)
    if row["stage"] != stage_dir.name:
        raise documents.damaged(file, documents.PLAN, "it is the plan of another stage")
    if not _fit(row, stage_dir / UNITS):
        raise documents.damaged(
            file, documents.PLAN, f"its numbers of units and tasks do not fit, or {UNITS} is shorter"
        )
    row["grown"] = []
    return row


def _fit(counts: Mapping[str, Any], listed: Path) -> bool:
    """Whether there may be so many units and tasks: each task has a unit, and the file lists each unit on a line.

    So no screen takes more memory than the files of a run give cause for. `verify` names a list that is gone, or that is not
    the one that was planned; then MOST_UNLISTED is the bound.
    """
    units, tasks = counts["units"], counts["tasks"]
    if not (0 <= tasks <= units) or bool(tasks) != bool(units):
        return False
    try:
        found, sha256 = listed.stat(), counts.get("units_sha256", "")
        if units * SHORTEST <= found.st_size:
            return True
        other = bool(sha256) and _digest(listed, found.st_ino, found.st_size, found.st_mtime_ns) != sha256
    except OSError:
        other = True
    return other and units <= MOST_UNLISTED


def of_plan(header: Mapping[str, Any]) -> tuple[Segment, ...]:
    """All segments of a plan, the one it began with first."""
    grown = [Segment(*segment) for segment in header.get("grown", ())]
    units = header["units"] - sum(segment.units for segment in grown)
    tasks = header["tasks"] - sum(segment.tasks for segment in grown)
    return Segment(units, tasks, sha256=header.get("units_sha256", "")), *grown


def bounds(planned: Sequence[Segment], task_index: int) -> tuple[int, int]:
    """[first, last) of the units of a task, counted over all segments. Raises IndexError if there is no such task."""
    first, index = 0, task_index
    for segment in planned:
        if index < segment.tasks:
            return (
                first + index * segment.units // segment.tasks,
                first + (index + 1) * segment.units // segment.tasks,
            )
        first, index = first + segment.units, index - segment.tasks
    raise IndexError(f"there are {sum(segment.tasks for segment in planned)} tasks and no task {task_index}")


def task_of(planned: Sequence[Segment], unit_index: int) -> int:
    """The task that a unit belongs to, by its position. Raises IndexError if there is no such unit."""
    first, index = 0, unit_index
    for segment in planned:
        if index < segment.units:
            return first + ((index + 1) * segment.tasks - 1) // segment.units
        first, index = first + segment.tasks, index - segment.units
    raise IndexError(f"there are {sum(segment.units for segment in planned)} units and no number {unit_index}")


def verify(stage_dir: Path, planned: Sequence[Segment]) -> None:
    """Raise UserError if a list of units is not what was planned. Each file is read once, unless it changes."""
    for segment in planned:
        path = stage_dir / segment.path
        try:
            stat = path.stat()
            intact = not segment.sha256 or _digest(path, stat.st_ino, stat.st_size, stat.st_mtime_ns) == segment.sha256
        except OSError as error:
            raise UserError(_damaged(path, f"cannot be read ({error.strerror})")) from error
        if not intact:
            raise UserError(_damaged(path, "is damaged: it is not the list of units that was planned"))


@functools.lru_cache(maxsize=256)
def _digest(path: Path, inode: int, size: int, changed: int) -> str:
    return digest(path)


def _damaged(path: Path, fault: str) -> str:
    return f"{path} {fault}. Restore it from a copy, or start again under another RUN=name; nothing was changed"


def lines(stage_dir: Path, planned: Sequence[Segment], first: int, last: int) -> list[bytes]:
    """Lines [first, last) of the lists of units, each of which begins with {"key": "…".

    Raises UserError if a list is not what was planned.
    """
    selected: list[bytes] = []
    for segment in planned:
        if first < min(last, segment.units):
            verify(stage_dir, [segment])
            with reading.opened(stage_dir / segment.path) as rows:
                selected += itertools.islice(rows, first, min(last, segment.units))
        first, last = max(0, first - segment.units), last - segment.units
        if last <= 0:
            break
    return selected
