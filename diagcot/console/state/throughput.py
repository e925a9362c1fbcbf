"""How fast a stage finishes its units, and the figures that its tasks report."""

from collections.abc import Mapping, Sequence
from typing import Any

from diagcot.console.state.run import Task
from diagcot.console.state.stage_files import StageFiles
from diagcot.jobs.plans import segments, stored
from diagcot.jobs.state import ledger
from diagcot.jobs.state.executions import begun, first_event

WINDOW_S = 600  # throughput is that of the last ten minutes
MIN_RECENT = 5  # units that must have finished in the window; otherwise throughput is that of the stage's whole life
LITTLE, STARTS = 0.05, 3
"""Until this share of the stage is done, or this many start-ups of a task have passed, the time says nothing about the rest."""
SAMPLE = 4000  # number of manifests whose time is read for it
UNDER_WAY = ("in flight", "waiting")  # figures that count requests under way


def rate(files: StageFiles, tasks: Sequence[Task], worked: float, last: float) -> float | None:
    """Units per second, None if unknown. worked: finished units and the fractions of running ones. last: time of the end."""
    if files.damage:
        return None
    started, earlier = _newest_work(files)
    worked -= earlier
    elapsed = max(0.0, last - started) if started else 0.0
    if not elapsed or not worked:
        return None
    if worked < LITTLE * files.units and elapsed < STARTS * files.plan.get("startup_s", 0):
        return None
    if elapsed > WINDOW_S and (recent := _finished_since(files, tasks, last - WINDOW_S)) >= MIN_RECENT:
        return recent / WINDOW_S
    return worked / elapsed


def _newest_work(files: StageFiles) -> tuple[float | None, int]:
    """Start of the current work, and the units done before it. Days may have passed before a plan has grown."""
    *earlier, newest = segments.of_plan(files.plan)
    if not earlier:
        return first_event(files.path), 0
    starts = (start for start in begun(files.path).values() if start >= newest.time)
    return min(starts, default=None), min(files.done, sum(segment.units for segment in earlier))


def _finished_since(files: StageFiles, tasks: Sequence[Task], since: float) -> float:
    """Estimate of the units finished since a time, from a sample of the tasks that run or have written since."""
    busy = {f"{task.task_index:05d}" for task in tasks if task.state == "running"}
    busy |= {name for name, executions in files.logs.items() if executions[-1][1] >= since}
    indices = [index for name in sorted(busy) if (index := int(name)) < files.tasks]
    step = max(1, len(indices) * files.units // files.tasks // SAMPLE)
    lines = stored.task_lines(files.path, files.plan)
    sample = [
        name for index in indices for name in lines.manifests(index, index % step, step) if name in files.manifests
    ]
    return sum(written > since for written in ledger.written_at(files.path, sample)) * step


def join_figures(reports: Sequence[Mapping[str, Any]], done: bool) -> dict[str, Any]:
    """Figures of several tasks as one: rates (`…/s`) and requests under way are summed, other numbers averaged.

    Of a text the last one is kept. done: the stage has finished, so nothing is under way.
    """
    joined: dict[str, Any] = {}
    for name in dict.fromkeys(name for report in reports for name in report):
        if done and name in UNDER_WAY:
            continue
        values = [report[name] for report in reports if name in report]
        numbers = [value for value in values if isinstance(value, (int, float))]
        if not numbers:
            joined[name] = values[-1]
        else:
            total = sum(numbers)
            joined[name] = total if name.endswith("/s") or name in UNDER_WAY else total / len(numbers)
    return joined
