"""`make watch`: all stages of a run, updated each second. Watching never changes the jobs, nor does leaving (q, Ctrl-C)."""

import contextlib
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from diagcot.console import text
from diagcot.console.screens.status import figures, now, render, require
from diagcot.console.state.executor import ExecutorState, query
from diagcot.console.state.remarks import remarks
from diagcot.console.state.run import Run
from diagcot.console.state.status import snapshot

REFRESH_S = 1.0
PAUSE_FACTOR = 4  # a slow snapshot (millions of units) is followed by a pause of this many times its duration
SLURM_S = 15.0  # minimum time between two queries of a shared slurmctld
LINE_S = 30.0  # minimum time between two lines about a stage that has only progressed


class Watch:
    """Takes snapshots of a run, and queries its executor at intervals."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._queried = float("-inf")
        self._answer = ExecutorState()
        self.pause_s = REFRESH_S  # time until the next snapshot is due

    def snapshot(self) -> Run:
        """The run now."""
        started = time.monotonic()
        if self._answer.local or started - self._queried > SLURM_S:
            self._answer, self._queried = query(self.run_dir), time.monotonic()
        run = snapshot(self.run_dir, self._answer)
        self.pause_s = max(REFRESH_S, PAUSE_FACTOR * (time.monotonic() - started))
        return run


class Lines:
    """Output into a pipe: one line whenever a stage has changed."""

    def __init__(self) -> None:
        self._printed: dict[str, tuple[Any, float]] = {}
        self._remarks: set[str] = set()

    def changes(self, run: Run) -> Iterator[str]:
        """One line for each stage that has changed."""
        for stage in run.stages:
            state = (stage.state, stage.done, stage.failed, stage.retrying)
            before, when = self._printed.get(stage.name, (None, 0.0))
            progressed = stage.state == "running" and run.time - when >= LINE_S
            if stage.state == "pending" and before is None:
                continue
            if state != before or progressed:
                self._printed[stage.name] = (state, run.time)
                clock = time.strftime("%H:%M:%S", time.localtime(run.time))
                parts = [f"{stage.done}/{stage.units} done", now(stage).plain, figures(stage)]
                if stage.eta is not None:
                    parts.append(f"{text.duration(stage.eta)} left")
                yield f"{clock} {stage.name}: {', '.join(part for part in parts if part and part != 'done')}"

    def remarks(self, run: Run) -> Iterator[str]:
        """Each remark once, even if its number of units changes."""
        for line in remarks(run):
            if (about := re.sub(r"\d+", "", line)) not in self._remarks:
                self._remarks.add(about)
                yield line


def show(run_dir: Path) -> int:
    """Watch until the run has ended or the user leaves. Returns 1 if something failed, else 0."""
    require(run_dir)
    watch, screen = Watch(run_dir), text.console()
    try:
        run = _live(watch, screen) if screen.is_terminal and not screen.is_dumb_terminal else _lines(watch, screen)
    except KeyboardInterrupt:
        return 0
    return 1 if any(stage.failed for stage in run.stages) or (run.ended and run.state != "done") else 0


def _live(watch: Watch, screen: Console) -> Run:
    run = watch.snapshot()
    with _keys() as pressed, Live(_frame(run, screen), console=screen, auto_refresh=False) as live:
        while not over(run):
            if pressed(watch.pause_s) == "q":
                break
            run = watch.snapshot()
            live.update(_frame(run, screen), refresh=True)
        live.update(render(run, screen), refresh=True)
    return run


def over(run: Run) -> bool:
    """True if the run cannot change any more: no job is queued or running, or all that is left has failed."""
    return run.ended or (run.state == "failed" and not any(stage.pending for stage in run.stages))


def _frame(run: Run, screen: Console) -> RenderableType:
    lines = screen.height - 3  # two for the hint below, one for the cursor
    return Group(render(run, screen, lines), Text("\nq quits; the jobs continue", "dim"))


def _lines(watch: Watch, screen: Console) -> Run:
    lines = Lines()
    while True:
        run = watch.snapshot()
        for line in [*lines.changes(run), *lines.remarks(run)]:
            screen.print(Text(text.fits(screen, line)), soft_wrap=True)
        if over(run):
            return run
        time.sleep(watch.pause_s)


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits for a key, up to a number of seconds; without a keyboard it only waits."""
    if not sys.stdin.isatty():
        yield time.sleep
        return
    before = termios.tcgetattr(sys.stdin)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return sys.stdin.read(1) if ready else ""

    try:
        tty.setcbreak(sys.stdin)
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
