"""`make demo`: runs a chain on this machine with a live screen, then shows its metrics."""

import contextlib
import signal
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.live import Live

from diagcot.console import text
from diagcot.console.screens.status import render
from diagcot.console.screens.watch import REFRESH_S, Lines, Watch
from diagcot.console.state.status import snapshot
from diagcot.jobs.state import reading, runner
from diagcot.jobs.state.processes import signals_as_interrupts


class Chain(Protocol):
    """The part of `launchers.chain.Chain` that is needed here."""

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""

    def submit(self, number: str) -> list[Any]:
        """Submit the stages with this number, or all."""


def run(chain: Chain) -> int:
    """Run all unfinished stages and show the metrics.

    Returns 0, 1 if a stage failed, and 128 and the number of the signal after Ctrl-C, SIGTERM or the end of the terminal.
    """
    from diagcot.jobs.execution import local

    screen, code = text.console(), 0
    with signals_as_interrupts():
        try:
            submitted = chain.submit("all")
            if any(row.state in ("submitted", "queued") for row in submitted):
                with ChainScreen(chain.run_dir):
                    code = runner.wait(chain.run_dir)
        except KeyboardInterrupt as asked:
            with contextlib.suppress(OSError):  # the terminal may be gone
                screen.print("stopping; finished work is kept …")
            local.stop(chain.run_dir)
            with contextlib.suppress(OSError):
                screen.print("stopped: the same command continues the run")
            return 128 + (asked.args[0] if asked.args else signal.SIGINT)
    if code:
        from diagcot.console.screens import failures

        failures.show(chain.run_dir)
        return 1
    return _results(chain.run_dir)


def _results(run_dir: Path) -> int:
    study = run_dir / "study.md"
    if study.exists():
        text.console().print(reading.page(study), markup=False, highlight=False, soft_wrap=True)
        text.console().print(f"plots: {text.home(run_dir / 'study.html')}", soft_wrap=True)
    sweep = run_dir / "sweep.md"
    if sweep.exists():
        text.console().print(reading.page(sweep), markup=False, highlight=False, soft_wrap=True)
    metrics = run_dir / "metrics.json"
    if not metrics.exists():
        return 0
    from diagcot.console.screens import metrics_table

    code = int(metrics_table.main([str(metrics)]) or 0) or _told_nothing(run_dir)
    report = run_dir / "report.html"
    if report.exists():
        text.console().print(f"report: {text.home(report)}", soft_wrap=True)
    return code


def _told_nothing(run_dir: Path) -> int:
    """Name what finished stages must have some of and have none of. Returns 1 if there is any, else 0."""
    lacking = [f"{stage.name}: it has no {name}" for stage in snapshot(run_dir).stages for name in stage.nothing_of]
    for line in lacking:
        text.console().print(line, style="yellow", soft_wrap=True)
    return int(bool(lacking))


class ChainScreen:
    """`with ChainScreen(run_dir): …` shows the run while the body works: as a table, or as lines in a pipe.

    An error of the screen never ends the chain: drawing happens in a separate thread.
    """

    def __init__(self, run_dir: Path) -> None:
        self._watch, self._screen = Watch(run_dir), text.console()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="screen", daemon=True)

    def __enter__(self) -> "ChainScreen":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(timeout=10)

    def _draw(self) -> None:
        if not self._screen.is_terminal:
            lines = Lines()
            while not self._end.wait(REFRESH_S):
                self._print(lines)
            self._print(lines)
            return
        with Live(console=self._screen, auto_refresh=False) as live:
            ended = False
            while not ended:
                ended = self._end.wait(REFRESH_S)
                # A file that is just being replaced is read again a second later.
                with contextlib.suppress(OSError, ValueError):
                    live.update(render(self._watch.snapshot(), self._screen, self._screen.height - 1), refresh=True)

    def _print(self, lines: Lines) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in lines.changes(self._watch.snapshot()):
                self._screen.print(line, soft_wrap=True)
