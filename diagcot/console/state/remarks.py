"""Remarks below the table of a run: why units wait, what stopped a stage, and which command to type."""

from collections.abc import Iterator
from pathlib import Path

from diagcot.console.commands import typed
from diagcot.console.state import reasons
from diagcot.console.state.executor import ALIVE, QUEUED
from diagcot.console.state.reasons import sentence
from diagcot.console.state.run import Run, Stage
from diagcot.console.state.tasks import WAITING
from diagcot.jobs.plans import stored

MESSAGE = 200  # characters of the reason for which a stage stopped; `make failures` shows all
USUAL = {"Dependency", "DEPENDENCY"}  # not worth a remark: the table shows the stage that is waited for


def retry(run_dir: Path, stage: str, *options: str) -> str:
    """The command that resubmits unfinished tasks of a stage."""
    return typed(" ".join(["make retry", f"STAGE={stage}", *options, f"RUN={run_dir.name}"]))


def remarks(run: Run) -> list[str]:
    """One sentence per remark, in the order of the stages."""
    lines = [f"{stage.name}: {line}" for stage in run.stages for line in _stage(run, stage)]
    lines += run.damage
    if run.note and run.state != "done":
        lines.append(run.note)
    if failed := [stage.name for stage in run.stages if stage.failed]:
        names = ", ".join(failed[:3]) + (f" and {len(failed) - 3} more" if len(failed) > 3 else "")
        lines.append(f"`make failures RUN={run.name}` shows why {names} failed")
    elif (
        run.ended
        and run.state != "done"
        and run.stages
        and not (stored.unfinished(run.path) or stored.unjoined(run.path))
    ):
        first = next(stage.name for stage in run.stages if stage.state != "done")
        lines.append(f"no job of this run is queued or running: `{retry(run.path, first)}` continues it")
    return [typed(line) for line in lines]


def _stage(run: Run, stage: Stage) -> Iterator[str]:
    command = retry(run.path, stage.name)
    yield from (f"it has no {name}" for name in stage.nothing_of)
    yield from (line.strip() for line in stage.losses)
    if stage.state == "done":  # the next stages still wait for its finaliser
        if stage.finaliser is not None and stage.finaliser.state in QUEUED:
            yield from _finaliser(stage, command)
        return
    waiting = {job for job in stage.reasons if reasons.code(job) not in USUAL}
    for reason in sorted(waiting):
        count = stage.reasons[reason]
        lost = "" if reason != WAITING or not run.ended else f"; that finaliser is gone: `{command}`"
        yield f"{units(count)}: {sentence(reason, command)}{lost}"
    if "DEPENDENCY" in stage.reasons and not any(s.failed for s in run.stages):
        yield f"{units(stage.reasons['DEPENDENCY'])}: {sentence('DEPENDENCY')}: `{command}`"
    if stage.unknown:
        ended = "their tasks ended without a message (killed, or not reported)"
        yield f"{units(stage.unknown)} unknown, {ended}: {_next(stage, command)}"
    if stage.stop_reason and not run.blocked(stage):
        yield (f"stopped (fault in: {stage.fault_in}): " if stage.fault_in else "stopped: ") + (
            stage.stop_reason if len(stage.stop_reason) <= MESSAGE else f"{stage.stop_reason[:MESSAGE]}…"
        )
    elif stage.failed and not stage.stop_reason and _finaliser_alive(stage):
        yield "its finaliser resubmits the tasks that may be retried"
    yield from _finaliser(stage, command)


def _finaliser_alive(stage: Stage) -> bool:
    return stage.finaliser is not None and stage.finaliser.state in ALIVE | QUEUED


def _next(stage: Stage, command: str) -> str:
    return "its finaliser will decide" if _finaliser_alive(stage) else f"`{command}` continues"


def _finaliser(stage: Stage, command: str) -> Iterator[str]:
    """What keeps the finaliser from ending the stage, if anything does."""
    job = stage.finaliser
    if job is None or stage.stop_reason:
        return
    if job.state in QUEUED and reasons.code(job.reason) not in USUAL | {"None", "", "Priority", "Resources"}:
        yield f"its finaliser: {sentence(job.reason, command)}"
    elif job.state not in ALIVE | QUEUED and job.state not in ("DEPENDENCY", "COMPLETED"):
        yield f"its finaliser ended without a decision ({job.state}): `{command}`"


def units(count: int) -> str:
    """`1 unit`, `5 units`."""
    return f"{count} {'unit' if count == 1 else 'units'}"
