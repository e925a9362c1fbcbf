"""What a person should know of a run besides its table: why units wait, what stopped a stage, and what to type."""

from collections.abc import Iterator
from pathlib import Path

from diagcot.console.state import reasons
from diagcot.console.state.executor import ALIVE, QUEUED
from diagcot.console.state.reasons import sentence
from diagcot.console.state.status import WAITING, Run, Stage

MESSAGE = 200  # characters of what stopped a stage; `make failures` shows all
USUAL = {"Dependency", "DEPENDENCY"}  # the rule, not news, while the stage before is told


def retry(run_dir: Path, stage: str, *options: str) -> str:
    """The command that runs what is not done of a stage again."""
    return " ".join(["make retry", f"STAGE={stage}", *options, f"RUN={run_dir.name}"])


def remarks(run: Run) -> list[str]:
    """One sentence each, the stages in order."""
    lines = [f"{stage.name}: {line}" for stage in run.stages for line in _stage(run, stage)]
    if run.note and run.state != "done":
        lines.append(run.note)
    if failed := [stage.name for stage in run.stages if stage.failed]:
        names = ", ".join(failed[:3]) + (f" and {len(failed) - 3} more" if len(failed) > 3 else "")
        lines.append(f"`make failures RUN={run.name}` shows why {names} failed")
    elif run.ended and run.state != "done" and run.stages:
        first = next(stage.name for stage in run.stages if stage.state != "done")
        lines.append(f"nothing of it is queued or running: `{retry(run.path, first)}` goes on")
    return lines


def _stage(run: Run, stage: Stage) -> Iterator[str]:
    again = retry(run.path, stage.name)
    if stage.state == "done":  # what follows waits for its finaliser all the same
        if stage.finaliser is not None and stage.finaliser.state in QUEUED:
            yield from _finaliser(stage, f"scontrol release {stage.finaliser_id}")
        return
    waiting = {job for job in stage.reasons if reasons.code(job) not in USUAL}
    for reason in sorted(waiting):
        count = stage.reasons[reason]
        held = "" if reason != WAITING or not run.ended else f"; that one is gone: `{again}`"
        yield f"{units(count)}: {sentence(reason, again)}{held}"
    if "DEPENDENCY" in stage.reasons and not any(s.failed for s in run.stages):
        yield f"{units(stage.reasons['DEPENDENCY'])}: {sentence('DEPENDENCY')}: `{again}`"
    if stage.unknown:
        yield f"{units(stage.unknown)} unknown, their tasks ended without a word (killed, or not told): {_then(stage, again)}"
    if stage.why and not run.blocked(stage):
        yield "stopped: " + (stage.why if len(stage.why) <= MESSAGE else f"{stage.why[:MESSAGE]}…")
    elif stage.failed and not stage.why and _lives(stage):
        yield "its finaliser tries again what may be tried again"
    yield from _finaliser(stage, again)


def _lives(stage: Stage) -> bool:
    return stage.finaliser is not None and stage.finaliser.state in ALIVE | QUEUED


def _then(stage: Stage, again: str) -> str:
    return "its finaliser will decide" if _lives(stage) else f"`{again}` goes on"


def _finaliser(stage: Stage, again: str) -> Iterator[str]:
    """What keeps the job from ending the stage, if something does."""
    job = stage.finaliser
    if job is None or stage.why:
        return
    if job.state in QUEUED and reasons.code(job.reason) not in USUAL | {"None", "", "Priority", "Resources"}:
        yield f"its finaliser: {sentence(job.reason, again)}"
    elif job.state not in ALIVE | QUEUED and job.state not in ("DEPENDENCY", "COMPLETED"):
        yield f"its finaliser ended without a verdict ({job.state}): `{again}`"


def units(count: int) -> str:
    return f"{count} {'unit' if count == 1 else 'units'}"
