"""`make failures`: each distinct failure of a run once, the number of units that it blocks, and the command to retry."""

import errno
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from diagcot.console import text
from diagcot.console.screens.status import require
from diagcot.console.state import cost, output
from diagcot.console.state.executor import query
from diagcot.console.state.reasons import FAILED_TO_START, code, sentence
from diagcot.console.state.remarks import retry, units
from diagcot.console.state.run import Run, Stage, Task
from diagcot.console.state.status import snapshot
from diagcot.jobs.plans import stored
from diagcot.jobs.state import attempts, reading
from diagcot.jobs.state import failures as raised
from diagcot.jobs.state.attempts import RETRY_FACTOR
from diagcot.jobs.state.failures import fault_of

PROCESSES = (
    "a limit on your processes or threads is reached (`ulimit -u`, or the cgroup's): end others, or have it raised"
)

ADVICE: dict[str, str] = {
    "recipe": "correct what the message names in a recipe under another RUN= (`from: run/stage` takes over what is finished),"
    " or outside of it",
    "data": "correct the data, or what the recipe says of them under another RUN=",
    "model": "correct or download the model",
    "site": "fix that",
    "own code": "fix your code (CODE=new runs the fixed code)",
    "ours": "this is a fault of DiagCoT: report it with the log; CODE=new runs corrected code",
}
"""What can help, by where the fault lies."""
SLURM_FAULTS = {"OUT_OF_MEMORY": "memory", "NODE_FAIL": "site", "BOOT_FAIL": "site", "PREEMPTED": "site"}
"""Where the fault lies, by Slurm's state of the job that ended."""

CHECKOUT = Path(__file__).resolve().parents[3]
MESSAGE = 300  # characters of a message that are shown
MEMORY = ("OUT_OF_MEMORY", "MemoryError", "OutOfMemoryError")


@dataclass(frozen=True)
class Failure:
    """One kind of failure of one stage: its first occurrence, the units that it blocks, and the command to retry."""

    stage: str
    kind: str  # class name of the exception, or a job state of Slurm
    message: str
    where: tuple[str, ...]  # last stack frames, innermost last; empty for errors of the user's input
    units: int
    times: int
    log: Path | None
    command: str = ""
    first: str = ""  # what to do before the command
    again: bool = False  # its tasks run again, or wait to
    fault_in: str = ""  # where the fault lies (`FaultIn`), if that is known


def show(run_dir: Path) -> int:
    """Print the failures. Returns 1 if any stops a task, else 0."""
    require(run_dir)
    run = snapshot(run_dir, query(run_dir))
    found = [failure for stage in run.stages for failure in failures(stage, run.blocked(stage))]
    screen = text.console()
    screen.print(render(run, found), soft_wrap=True)
    return int(bool(run.damage) or not all(failure.again for failure in found))


def failures(stage: Stage, blocked: bool = False) -> Iterator[Failure]:
    """Distinct failures of tasks with unfinished units, the most frequent first.

    blocked: an earlier stage has failed, so this stage stopped because of that.
    """
    found = list(_raised(stage, {_name(task): task for task in stage.unfinished_tasks if task.state == "failed"}))
    reported = {name for _, tasks in found for name in tasks}
    found += list(_ended(stage, reported))
    for failure, _ in found:
        yield _advised(stage, failure)
    for failure, _ in _raised(stage, {_name(task): task for task in stage.unfinished_tasks if task.retried}):
        yield replace(failure, again=True)
    if stage.stop_reason and not blocked and (not found or attempts.handed_over(stage.path)[0]):
        if stored.damage(stage.path, stored.plan(stage.path)):  # a retry would be refused; the message says what to do
            yield Failure(stage.name, "damaged", stage.stop_reason, (), stage.units - stage.done, 1, None)
            return
        yield _advised(stage, Failure(stage.name, "stopped", stage.stop_reason, (), stage.units - stage.done, 1, None))


def _name(task: Task) -> str:
    return f"{task.task_index:05d}"


def _raised(stage: Stage, broken: Mapping[str, Task]) -> Iterator[tuple[Failure, set[str]]]:
    """Exceptions of these tasks, with the tasks that raised them. broken: name of a task -> task."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in raised.read(stage.path):
        if row["task"] not in broken:
            continue
        where = row.get("where") or [""]
        # Failures are distinguished by the line that raised them; messages differ by file and number.
        rows.setdefault((row["type"], row["message"] if row.get("for_user") else _place(stage, where[-1])), []).append(
            row
        )
    for same in sorted(rows.values(), key=len, reverse=True):
        first = same[0]
        tasks = {row["task"] for row in same}
        log = stage.path / "out" / f"{first['task']}.{first['attempt']}{_rank(first)}.log"
        yield (
            Failure(
                stage.name,
                first["type"],
                first["message"].strip(),
                () if first.get("for_user") else tuple(first.get("where", ())),
                sum(broken[name].unfinished for name in tasks),
                len({(row["task"], row["attempt"]) for row in same}),
                log if log.exists() else None,
                fault_in=fault_of(first),
            ),
            tasks,
        )


def _place(stage: Stage, frame: str) -> str:
    """A stack frame with its file relative to the code, whether it ran from the run's copy or from the checkout."""
    copies = re.escape(str(stage.path.parent / "code"))
    return re.sub(rf"^{copies}/[^/]+/", "", frame).removeprefix(f"{CHECKOUT}/")


def _ended(stage: Stage, reported: set[str]) -> Iterator[tuple[Failure, set[str]]]:
    """Tasks that Slurm ended and that left no message, and those that it could not start and holds."""
    silent: dict[str, list[Any]] = {}
    for task in stage.unfinished_tasks:
        ended = task.state == "failed" or code(task.reason) in FAILED_TO_START
        if ended and f"{task.task_index:05d}" not in reported:
            silent.setdefault(code(task.reason), []).append(task)
    for reason, tasks in sorted(silent.items(), key=lambda item: -len(item[1])):
        message = sentence(reason, retry(stage.path.parent, stage.name)) if reason else "left no message"
        begun = {path.name.partition(".")[0] for path in (stage.path / "out").glob("*.log")}
        early = [
            log for task in tasks if _name(task) not in begun and (log := output.task_log(stage.path, task.task_index))
        ]
        if early and (said := output.complaint(early[0])):
            message = f"{message}; before its work began: {said}"
        elif reason == "FAILED" and not early and not begun & {_name(task) for task in tasks}:
            message = (
                f"ended with an error before it wrote a line: its node may not see {stage.path / output.FOLDER}, or not be able"
                " to write there (FAILED); `make rehearse` looks at that"
            )
        left = sum(task.unfinished for task in tasks)
        yield (
            Failure(
                stage.name,
                reason or "ended",
                message,
                (),
                left,
                len(tasks),
                early[0] if early else None,
                fault_in=SLURM_FAULTS.get(reason, ""),
            ),
            {f"{task.task_index:05d}" for task in tasks},
        )


def _rank(row: dict[str, Any]) -> str:
    return f".r{row['rank']}" if row.get("rank") else ""


def _advised(stage: Stage, failure: Failure) -> Failure:
    """The failure with the command that retries it, and the options that its cause needs."""
    size, options, first = _largest(stage), [], ""
    message = failure.message.lower()
    if failure.fault_in == "memory" or failure.kind in MEMORY or "out of memory" in message:
        if size["mem_gb"] and "cuda" not in message:
            options.append(f"MEM={int(size['mem_gb'] * RETRY_FACTOR + 0.999)}")
        else:
            first = "lower the batch size in the recipe and use another RUN=, or use nodes with more memory"
    elif failure.kind in ("TIMEOUT", "DEADLINE") or "time limit" in message:
        options.append(f"TIME={int(size['minutes'] * RETRY_FACTOR)}")
    elif remedy(failure.message):
        first = ADVICE["site"]
    elif failure.kind in ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "CANCELLED", "stopped"):
        pass
    elif failure.fault_in:
        first, options = ADVICE[failure.fault_in], ["CODE=new"] if failure.fault_in in ("own code", "ours") else []
    else:
        first = "fix the reported problem"
    return replace(failure, command=retry(stage.path.parent, stage.name, *options), first=first)


def _largest(stage: Stage) -> dict[str, Any]:
    """The largest memory and time limits of the stage's tasks so far."""
    sizes = [stage.resources, *(array.resources for attempt in attempts.known(stage.path) for array in attempt.arrays)]
    return {
        "mem_gb": max((cost.memory_gb(size) for size in sizes), default=0),
        "minutes": max((size.get("minutes") or 0 for size in sizes), default=0),
    }


def render(run: Run, found: list[Failure]) -> RenderableType:
    """One paragraph per failure."""
    if not found and not run.damage:
        return Text(f"{run.name}: nothing failed")
    parts = [Text.assemble(("damaged", "bold red"), f"  {line}\n") for line in run.damage]
    for failure in found:
        times = f", {failure.times} times" if failure.times > 1 else ""
        parts.append(
            Text.assemble(
                (f"{failure.stage}: {failure.kind}", "bold red"),
                f"  blocks {units(failure.units)}{times}",
                f"; fault in: {failure.fault_in}" if failure.fault_in else "",
            )
        )
        message = failure.message if len(failure.message) <= MESSAGE else failure.message[:MESSAGE] + "…"
        parts += [Text(f"  {line}") for line in message.splitlines()]
        parts += [Text(f"    at {place}", "dim") for place in failure.where]
        if remedy(failure.message):
            parts.append(Text(f"  → {remedy(failure.message)}", "yellow"))
        if failure.log:
            parts.append(Text(f"  log: {text.home(failure.log)}", "dim"))
        if failure.again:
            parts.append(Text("  it runs again by itself; nothing needs to be done", "dim"))
        if failure.command:
            then = f"  {failure.first}; then:" if failure.first else "  to continue:"
            parts.append(Text.assemble((then, "dim"), " ", (failure.command, "bold")))
        parts.append(Text(""))
    if any(failure.command for failure in found):
        parts.append(Text("A retry runs unfinished units only. The stages that follow continue with it."))
    return Group(*parts)


def remedy(message: str) -> str:
    """The remedy for a system error that a message names; empty for other messages."""
    number = reading.number_in(message)
    if number == errno.EAGAIN or "can't start new thread" in message:
        return PROCESSES
    return reading.remedy(number)
