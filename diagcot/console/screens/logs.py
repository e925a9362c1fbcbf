"""`make logs [STAGE=] [UNIT=]`: the end of the newest log."""

import io
import os
import time
from pathlib import Path

from diagcot.console import text
from diagcot.console.screens.status import require
from diagcot.console.state import output
from diagcot.console.state.executor import executor
from diagcot.jobs import UserError
from diagcot.jobs.plans import segments, stored
from diagcot.jobs.state import reading
from diagcot.jobs.state.executions import logs_of

LINES = 40


def show(
    run_dir: Path, stage: str | None = None, unit: str | None = None, lines: int = LINES, follow: bool = False
) -> int:
    """Print the last `lines` of the newest log, then the names of the task's other logs; `follow` continues until Ctrl-C."""
    require(run_dir)
    path = find(run_dir, stage, unit)
    screen = text.console()
    screen.print(text.home(path), style="bold", soft_wrap=True)
    # Logs hold brackets of all kinds: printed as they are, not as markup.
    print("\n".join(tail(path, lines)), flush=True)
    earlier = sorted(p.name for p in path.parent.glob(f"{path.name.split('.')[0]}.*.log") if p != path)
    if earlier:
        screen.print(f"other logs: {', '.join(earlier)}", style="dim", soft_wrap=True)
    if follow:
        _follow(path)
    return 0


def find(run_dir: Path, stage: str | None = None, unit: str | None = None) -> Path:
    """The newest log of the unit's task, of the stage, or of the run. Raises UserError that lists what exists."""
    if stage is None:
        if unit is None:
            return _newest(run_dir)
        stage = _stage_of(run_dir, unit)
    folder = run_dir / stage
    if not (folder / "plan.json").exists():
        known = ", ".join(_stages(run_dir))
        raise UserError(f"run {run_dir.name} has no stage {stage!r}; its stages: {known or 'none yet'}")
    newest = {name: logs[-1] for name, logs in logs_of(folder).items()}
    if unit is not None:
        task = _task(folder, unit)
        newest = {name: log for name, log in newest.items() if name == task}
    if not newest and (early := _early(folder, unit)):
        return early
    if not newest:
        _require_logs(run_dir)
        what = f"unit {unit!r} of stage {stage}" if unit is not None else f"stage {stage}"
        raise UserError(
            f"{what} has no log: it has not started, or its node could not write one"
            f" (`make failures RUN={run_dir.name}` shows which)"
        )
    name, (attempt, _) = max(newest.items(), key=lambda item: item[1][1])
    return folder / "out" / f"{name}.{attempt}.log"


def _early(folder: Path, unit: str | None) -> Path | None:
    """Slurm's own log, of a job that printed something and ended before a worker began; None if there is none."""
    if unit is not None:
        return output.task_log(folder, int(_task(folder, unit)))
    return next(reversed(output.job_logs(folder)), None)


def _stages(run_dir: Path) -> list[str]:
    return sorted(path.parent.name for path in run_dir.glob("*/plan.json"))


def _stage_of(run_dir: Path, unit: str) -> str:
    """The only stage that has this unit. Raises UserError if there is none, or if there are several."""
    found = [name for name in _stages(run_dir) if stored.unit_index(run_dir / name, unit) is not None]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(
            f"no stage of run {run_dir.name} has a unit {unit!r}; its stages: {', '.join(_stages(run_dir))}"
        )
    raise UserError(f"several stages have a unit {unit}: add one of {', '.join(f'STAGE={name}' for name in found)}")


def _newest(run_dir: Path) -> Path:
    logs = [path for path in run_dir.glob("*/out/*.log") if ".r" not in path.stem.partition(".")[2]]
    logs = logs or [path for folder in run_dir.glob("*/plan.json") for path in output.job_logs(folder.parent)]
    if not logs:
        _require_logs(run_dir)
        raise UserError(
            f"run {run_dir.name} has no log: nothing has started, or no node could write one"
            f" (`make failures RUN={run_dir.name}` shows which)"
        )
    return max(logs, key=lambda path: path.stat().st_mtime)


def _require_logs(run_dir: Path) -> None:
    """Raise UserError if the run is one that writes no logs."""
    if executor(run_dir) == "debug":
        raise UserError(
            f"run {run_dir.name} has no logs: its cluster has `executor: debug`, whose output goes to the terminal"
        )


def _task(folder: Path, unit: str) -> str:
    plan = stored.plan(folder)
    at = stored.unit_index(folder, unit)
    if at is None:
        some = ", ".join(stored.first_keys(folder, 3)) + (", …" if plan["units"] > 3 else "")
        raise UserError(f"stage {folder.name} has no unit {unit!r}; its {plan['units']} units are: {some}")
    return f"{segments.task_of(segments.of_plan(plan), at):05d}"


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log, of its last `output.END` bytes."""
    return output.end(path).splitlines()[-lines:]


def _follow(path: Path) -> None:
    with io.TextIOWrapper(reading.opened(path), encoding="utf-8", errors="replace") as file:
        file.seek(0, os.SEEK_END)
        while True:
            if new := file.read():
                print(new, end="", flush=True)
            else:
                time.sleep(0.5)
