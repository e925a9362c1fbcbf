"""The plans of a run as their files say, for screens: plain JSON, read once, nothing of it imported or written.

`diagcot.jobs.plans.plan` reads one plan as a typed object; a screen that looks at all stages every second does not need
that, nor the time that it takes.
"""

import contextlib
import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagcot.jobs.errors import UserError
from diagcot.jobs.names import LONGEST, is_stage
from diagcot.jobs.plans import segments
from diagcot.jobs.plans.segments import Segment
from diagcot.jobs.state import documents, reading


def plans(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The plan of every stage of a run as it stands, in the order of the run's list of stages.

    Raises UserError if a plan, a growth or the list of stages is damaged.
    """
    names = stages(run_dir)
    yield from _in_order([plan(folder) for folder in _folders(run_dir)], names)


def whole(run_dir: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """As `plans`, for screens: what can be shown, and what is wrong with other files of the run, one line for each."""
    rows, wrong, names = list[dict[str, Any]](), list[str](), list[str]()
    try:
        names = stages(run_dir)
    except UserError as error:
        wrong.append(str(error))
    for folder in _folders(run_dir):
        try:
            rows.append(plan(folder))
        except UserError as error:
            wrong.append(str(error))
            with contextlib.suppress(UserError):  # as it began, where what it grew by is damaged
                rows.append(segments.first_header(folder))
    wrong += filter(None, [unfinished(run_dir), unjoined(run_dir)])
    return list(_in_order(rows, names)), list(dict.fromkeys([*wrong, *documents.damage(run_dir)]))


def _folders(run_dir: Path) -> list[Path]:
    return [path.parent for path in run_dir.glob("*/plan.json")]


def _in_order(rows: Iterable[dict[str, Any]], names: Iterable[str]) -> Iterator[dict[str, Any]]:
    place = {name: number for number, name in enumerate(names)}
    yield from sorted(rows, key=lambda row: (place.get(row["stage"], len(place)), row.get("created", 0), row["stage"]))


def stages(run_dir: Path) -> list[str]:
    """Names of a run's stages in order; none for a new run. Without the list, those that the run began with and got since.

    A stage that has joined is named last where this node still sees the list of before. Raises UserError if the list is
    damaged: it lacks a stage that the run began with, or names what has no plan; or if a file names what can be no stage.
    """
    path = run_dir / "stages"
    remedy = f"`make submit-all RUN={run_dir.name}` writes it again"
    first = _first_stages(run_dir)
    _require_names(run_dir / "run.json", documents.RUN, first)
    joined = list[str]()
    for number, growth in segments.growths(run_dir):
        _require_names(run_dir / "grown" / str(number) / "growth.json", documents.GROWTH, growth.get("joined", ()))
        joined += growth.get("joined", ())
    try:
        names = reading.read_text(path).split()
    except FileNotFoundError:
        return [name for name in dict.fromkeys([*first, *joined]) if (run_dir / name / "plan.json").exists()]
    except (ValueError, IsADirectoryError) as error:
        raise documents.DamagedFile(f"{path} is damaged: it is no list of stages. {remedy}") from error
    if lacking := [name for name in first if name not in names]:
        raise documents.DamagedFile(f"{path} is damaged: it lacks {', '.join(lacking)}. {remedy}")
    for name in names:
        if not is_stage(name) or not (run_dir / name / "plan.json").exists():
            raise documents.DamagedFile(f"{path} is damaged: it names {name[:LONGEST]!r}, which has no plan. {remedy}")
    return list(dict.fromkeys([*names, *joined]))


def _require_names(path: Path, kind: documents.Format, names: Iterable[str]) -> None:
    """Raise UserError for a name that no stage can have: it would be a folder elsewhere, such as one of another run."""
    if wrong := [name for name in names if not is_stage(name)]:
        raise documents.damaged(path, kind, f"it names {wrong[0][:LONGEST]!r}, which cannot be the name of a stage")


def _first_stages(run_dir: Path) -> list[str]:
    return list(documents.find(run_dir / "run.json", documents.RUN).get("stages", ()))


def unplanned(run_dir: Path) -> list[str]:
    """Stages that a run was to begin with and has no plan of: its submission has not finished. None once it has."""
    if (run_dir / "stages").exists():  # written after all plans
        return []
    return [name for name in _first_stages(run_dir) if not (run_dir / name / "plan.json").exists()]


def unfinished(run_dir: Path) -> str:
    """What is wrong with a run whose submission has not finished, and what to do; empty for any other.

    An error of the disk, a limit on the size of files or a kill may have ended it; what it writes last is `stages`.
    """
    missing, run = unplanned(run_dir), run_dir.name
    if missing:
        what = f"{', '.join(missing)} {'has' if len(missing) == 1 else 'have'} no plan"
    elif not any((run_dir / name).exists() for name in ("stages", "cluster.yaml")) and _first_stages(run_dir):
        what = "it has no cluster.yaml"
    else:
        return ""
    return (
        f"{run_dir}: the submission of this run has not finished: {what}. If no submission of it is at work now, submit it"
        f" again (`make submit-all RUN={run}`), or remove it (`make remove RUN={run}`)"
    )


def unjoined(run_dir: Path) -> str:
    """What is wrong with a run that further stages were about to join, and what to do; empty for any other."""
    try:
        names = stages(run_dir)
    except UserError:  # which is told by itself
        return ""
    left = sorted({folder.name for folder in _folders(run_dir)} - set(names))
    if not left or not (run_dir / "stages").exists():
        return ""
    return (
        f"{run_dir}: the submission by which {', '.join(left)} {'joins' if len(left) == 1 else 'join'} this run has not finished."
        f" If no submission of it is at work now, submit it again (`make submit-all RUN={run_dir.name}`)"
    )


def require_submitted(run_dir: Path) -> None:
    """Raise UserError if the submission of the run has not finished."""
    if why := unfinished(run_dir):
        raise UserError(why)


def plan(stage_dir: Path) -> dict[str, Any]:
    """The plan of one stage as it stands. Raises FileNotFoundError if there is none, UserError if it is damaged."""
    about = (stage_dir / "plan.json").stat()
    return _header(stage_dir, about.st_ino, about.st_mtime_ns, segments.count_growths(stage_dir.parent))


@functools.lru_cache(maxsize=256)
def _header(stage_dir: Path, inode: int, changed: int, growths: int) -> dict[str, Any]:
    # Plans only grow; a run that was removed and planned again has another inode.
    return segments.header(stage_dir)


def damage(stage_dir: Path, plan: Mapping[str, Any]) -> str:
    """What is wrong with the lists of a stage's units, or nothing. They are read once, unless they change."""
    try:
        segments.verify(stage_dir, segments.of_plan(plan))
    except UserError as error:
        return str(error)
    return ""


def unit_index(stage_dir: Path, key: str) -> int | None:
    """The position of unit `key` in a stage's plan, or None if there is no such unit."""
    before, head = 0, b'{"key": "%s"' % key.encode()
    for segment in segments.of_plan(plan(stage_dir)):
        segments.verify(stage_dir, [segment])
        data = reading.read_bytes(stage_dir / segment.path)
        at = 0 if data.startswith(head) else data.find(b"\n" + head) + 1
        if at or data.startswith(head):
            return before + data.count(b"\n", 0, at)
        before += segment.units
    return None


def first_keys(stage_dir: Path, count: int) -> list[str]:
    """Keys of the first units of a stage's plan, at most `count`."""
    lines = segments.lines(stage_dir, segments.of_plan(plan(stage_dir)), 0, count)
    return [json.loads(line)["key"] for line in lines]


@dataclass(frozen=True)
class TaskLines:
    """Where the units of each task stand in their files: of a million lines only those of a few tasks are parsed."""

    places: tuple[tuple[Path, int, int], ...]  # file, first byte and end of each task's lines
    last: tuple[bytes, ...]  # the name of the manifest of each task's last unit

    def manifests(self, task_index: int, first: int = 0, step: int = 1) -> list[bytes]:
        """Names of the manifests (`<key>.json`) of a task's units, or of every n-th (`step`) from `first`."""
        path, begin, end = self.places[task_index]
        with reading.opened(path) as lines:
            lines.seek(begin)
            block = lines.read(end - begin)
        return [_manifest(line) for line in block.splitlines()[first::step]]


def _manifest(line: bytes) -> bytes:
    return line.split(b'"', 4)[3] + b".json"  # each line begins with {"key": "…


def task_lines(stage_dir: Path, plan: Mapping[str, Any]) -> TaskLines:
    """The places of the units of a stage's tasks. Raises UserError if a list of units is damaged."""
    inode = (stage_dir / segments.UNITS).stat().st_ino
    return _task_lines(stage_dir, inode, segments.of_plan(plan))


@functools.lru_cache(maxsize=64)
def _task_lines(stage_dir: Path, inode: int, planned: tuple[Segment, ...]) -> TaskLines:
    segments.verify(stage_dir, planned)
    places, last = [], []
    for segment in planned:
        path, at = stage_dir / segment.path, 0
        with reading.opened(path) as lines:
            for task_index in range(segment.tasks):
                first, end = segments.bounds([segment], task_index)
                block = list(itertools.islice(lines, end - first))
                places.append((path, at, at := at + sum(map(len, block))))
                last.append(_manifest(block[-1]))
    return TaskLines(tuple(places), tuple(last))
