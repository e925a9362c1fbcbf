"""The live screen around a chain that this very process runs: `with ChainScreen(run_dir): run_the_chain()`."""

import contextlib
import threading
from pathlib import Path
from types import TracebackType

from rich.live import Live

from diagcot.console import text
from diagcot.console.status_screen import render
from diagcot.console.watch import REFRESH_S, Lines, Watch


class ChainScreen:
    """Shows the run from its files while the caller works; a table on a terminal, lines where it is piped.

    A fault of the screen never ends the chain: drawing happens in a thread of its own.
    """

    def __init__(self, run_dir: Path) -> None:
        self._watch, self._screen = Watch(run_dir, slurm=False), text.console()
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
                # A file that is being replaced right now is read again a second later.
                with contextlib.suppress(OSError, ValueError):
                    live.update(render(self._watch.look(), self._screen), refresh=True)

    def _print(self, lines: Lines) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in lines.changes(self._watch.look()):
                self._screen.print(line, soft_wrap=True)
