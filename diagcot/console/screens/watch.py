"""`make watch`: all stages of a run, live. Looking never touches the jobs; q or Ctrl-C leaves them as they are."""

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
from diagcot.console.state.executor import Answer, ask
from diagcot.console.state.remarks import remarks
from diagcot.console.state.status import Run, snapshot

REFRESH_S = 1.0
REST = 4  # a look that took long (millions of units) is followed by a rest of so many times its length
SLURM_S = 15.0  # a shared slurmctld is asked no oftener than this
LINE_S = 30.0  # where lines are printed, a stage that only crept on is told no oftener than this


class Watch:
    """Snapshots of a run, with its executor asked now and then."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._asked = float("-inf")
        self._answer = Answer()
        self.rest = REFRESH_S  # seconds until the next look is due

    def look(self) -> Run:
        began = time.monotonic()
        if self._answer.local or began - self._asked > SLURM_S:
            self._answer, self._asked = ask(self.run_dir), time.monotonic()
        run = snapshot(self.run_dir, self._answer)
        self.rest = max(REFRESH_S, REST * (time.monotonic() - began))
        return run


class Lines:
    """The screen of those who pipe: one line whenever a stage has changed."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[Any, float]] = {}
        self._remarks: set[str] = set()

    def changes(self, run: Run) -> Iterator[str]:
        for stage in run.stages:
            state = (stage.state, stage.done, stage.failed, stage.retrying)
            before, when = self._said.get(stage.name, (None, 0.0))
            crept = stage.state == "running" and run.time - when >= LINE_S
            if stage.state == "pending" and before is None:
                continue
            if state != before or crept:
                self._said[stage.name] = (state, run.time)
                clock = time.strftime("%H:%M:%S", time.localtime(run.time))
                parts = [f"{stage.done}/{stage.units} done", now(stage).plain, figures(stage)]
                if stage.eta is not None:
                    parts.append(f"{text.duration(stage.eta)} left")
                yield f"{clock} {stage.name}: {', '.join(part for part in parts if part and part != 'done')}"

    def remarks(self, run: Run) -> Iterator[str]:
        """What a person should know, each thing once, however many units it is about by now."""
        for line in remarks(run):
            if (about := re.sub(r"\d+", "", line)) not in self._remarks:
                self._remarks.add(about)
                yield line


def show(run_dir: Path) -> int:
    """Watch until the run has ended or the person leaves. Returns 1 if something failed, else 0."""
    require(run_dir)
    watch, screen = Watch(run_dir), text.console()
    try:
        run = _live(watch, screen) if screen.is_terminal and not screen.is_dumb_terminal else _lines(watch, screen)
    except KeyboardInterrupt:
        return 0
    return 1 if any(stage.failed for stage in run.stages) or (run.ended and run.state != "done") else 0


def _live(watch: Watch, screen: Console) -> Run:
    run = watch.look()
    with _keys() as pressed, Live(_frame(run, screen), console=screen, auto_refresh=False) as live:
        while not over(run):
            if pressed(watch.rest) == "q":
                break
            run = watch.look()
            live.update(_frame(run, screen), refresh=True)
        live.update(render(run, screen), refresh=True)
    return run


def over(run: Run) -> bool:
    """Whether watching on would show nothing new. Where Slurm may still retry, only its empty queue counts."""
    return run.ended or (run.state == "failed" and not any(stage.pending for stage in run.stages))


def _frame(run: Run, screen: Console) -> RenderableType:
    lines = screen.height - 3  # two for the line below, one for the cursor
    return Group(render(run, screen, lines), Text("\nq leaves; the jobs go on", "dim"))


def _lines(watch: Watch, screen: Console) -> Run:
    lines = Lines()
    while True:
        run = watch.look()
        for line in [*lines.changes(run), *lines.remarks(run)]:
            screen.print(Text(text.fits(screen, line)), soft_wrap=True)
        if over(run):
            return run
        time.sleep(watch.rest)


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits up to some seconds for a key; without a keyboard it only waits."""
    if not sys.stdin.isatty():
        yield lambda seconds: time.sleep(seconds)
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
