"""A stage's plan as it stands: `plan.json`, the lists of its units, and what its run has grown by since.

A run grows by `grown/<n>/growth.json`, which is created last and once for all stages: before it is there nothing has
grown. Units that a stage gets stand in `grown/<n>/<stage>.jsonl`, come after all that it had, and have tasks of their
own after all others: no unit changes its number and no task its units.
"""

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diagcot.jobs.errors import UserError
from diagcot.jobs.state.files import digest

UNITS = "units.jsonl"


class Part(NamedTuple):
    """Units that were planned together, cut evenly into so many tasks; `path`: their file, from the stage's folder."""

    units: int
    tasks: int
    path: str = UNITS
    time: float = 0  # when the run grew by them
    sha256: str = ""  # of their file


def growths(run_dir: Path) -> list[tuple[int, dict[str, Any]]]:
    """(number, content) of every growth.json of the run, first to last."""
    return [
        (number, json.loads((run_dir / "grown" / str(number) / "growth.json").read_bytes()))
        for number in range(1, times(run_dir) + 1)
    ]


def times(run_dir: Path) -> int:
    """How often the run has grown."""
    return next(n for n in itertools.count() if not (run_dir / "grown" / str(n + 1) / "growth.json").exists())


def header(stage_dir: Path) -> dict[str, Any]:
    """plan.json with all that was added since; `grown` holds the further parts. Raises FileNotFoundError without one."""
    row: dict[str, Any] = json.loads((stage_dir / "plan.json").read_bytes())
    row["grown"] = []
    for number, growth in growths(stage_dir.parent):
        more = growth["stages"].get(stage_dir.name)
        if more is None:
            continue
        row |= {name: more[name] for name in ("inputs", "after", "settings")}
        if more["units"]:
            path = f"../grown/{number}/{stage_dir.name}.jsonl"
            row["grown"].append(Part(more["units"], more["tasks"], path, growth["time"], more.get("units_sha256", "")))
            row["units"] += more["units"]
            row["tasks"] += more["tasks"]
    return row


def parts(header: Mapping[str, Any]) -> tuple[Part, ...]:
    """All parts of a plan, the one it began with first."""
    grown = [Part(*part) for part in header.get("grown", ())]
    units = header["units"] - sum(part.units for part in grown)
    tasks = header["tasks"] - sum(part.tasks for part in grown)
    return Part(units, tasks, sha256=header.get("units_sha256", "")), *grown


def bounds(of: Sequence[Part], slot: int) -> tuple[int, int]:
    """[first, last) of the units of task `slot`, counted over all parts. Raises IndexError if there is no such task."""
    first, at = 0, slot
    for part in of:
        if at < part.tasks:
            return first + at * part.units // part.tasks, first + (at + 1) * part.units // part.tasks
        first, at = first + part.units, at - part.tasks
    raise IndexError(f"there are {sum(part.tasks for part in of)} tasks and no task {slot}")


def slot_of(of: Sequence[Part], index: int) -> int:
    """The task that unit number `index` belongs to. Raises IndexError if there is no such unit."""
    first, at = 0, index
    for part in of:
        if at < part.units:
            return first + ((at + 1) * part.tasks - 1) // part.units
        first, at = first + part.tasks, at - part.units
    raise IndexError(f"there are {sum(part.units for part in of)} units and no number {index}")


def verify(stage_dir: Path, of: Sequence[Part]) -> None:
    """Raise UserError if a list of units is not what was planned. Each file is read once, unless it changes."""
    for part in of:
        path = stage_dir / part.path
        try:
            seen = path.stat()
            whole = not part.sha256 or _digest(path, seen.st_ino, seen.st_size, seen.st_mtime_ns) == part.sha256
        except OSError as error:
            raise UserError(_damaged(path, f"cannot be read ({error.strerror})")) from error
        if not whole:
            raise UserError(_damaged(path, "is damaged: it is not the list of units that was planned"))


@functools.lru_cache(maxsize=256)
def _digest(path: Path, inode: int, size: int, changed: int) -> str:
    return digest(path)


def _damaged(path: Path, what: str) -> str:
    return f"{path} {what}. Put a copy of it back, or start anew under another RUN=name; nothing was changed"


def lines(stage_dir: Path, of: Sequence[Part], first: int, last: int) -> list[bytes]:
    """Lines [first, last) of the lists of units, which begin with {"key": "…"."""
    found: list[bytes] = []
    for part in of:
        if first < min(last, part.units):
            verify(stage_dir, [part])
            with (stage_dir / part.path).open("rb") as rows:
                found += itertools.islice(rows, first, min(last, part.units))
        first, last = max(0, first - part.units), last - part.units
        if last <= 0:
            break
    return found
