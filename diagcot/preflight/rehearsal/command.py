"""The command itself: submit the rehearsal, wait for it behind a progress line, print the table, clean up."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from diagcot.console import text
from diagcot.jobs import UserError
from diagcot.preflight.rehearsal import chain as rehearsals
from diagcot.preflight.rehearsal import table, wait

if TYPE_CHECKING:
    from rich.console import Console

    from launchers.chain import Chain

PATIENCE_MINUTES = 10.0


def main(chain: "Chain", patience_minutes: float = PATIENCE_MINUTES) -> int:
    """Rehearse the chain. Returns 1 if anything would fail, else 0. Ctrl-C cancels the rehearsal's jobs."""
    if chain.cluster.executor == "debug":
        raise UserError(
            f"CLUSTER={chain.cluster.name} runs in this process and has no nodes to check: use `make doctor`"
        )
    screen = text.console()
    with _signals_as_ctrl_c():
        rehearsal = rehearsals.prepare(chain)
        try:
            rehearsals.start(rehearsal)
            with _progress(screen) as report:
                wait.wait(rehearsal, patience_minutes * 60, report)
        except BaseException:
            screen.print("cancelling the jobs of the rehearsal")
            wait.stop(rehearsal)
            rehearsals.record(rehearsal)
            raise
        finally:
            rehearsal.clean()
    rehearsals.record(rehearsal)
    screen.print(table.render(screen, [plan.stage for plan in rehearsal.plans], rehearsal.rows))
    screen.print(f"all findings: {text.home(rehearsal.run_dir / rehearsals.RESULT)}", soft_wrap=True, markup=False)
    return int(any(row.finding.level == "bad" for row in rehearsal.rows))


@contextlib.contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """A terminal that is closed, or a plain kill, cancels the jobs as well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _progress(screen: "Console") -> Iterator[wait.Report]:
    """Reports one line of progress: in place on a terminal, elsewhere a new line for each change."""
    if screen.is_terminal:
        with screen.status("submitted") as status:
            yield lambda line: status.update(Text(line))
        return
    last = ""

    def report(line: str) -> None:
        nonlocal last
        if line != last:
            screen.print(line, soft_wrap=True, markup=False)
            last = line

    yield report
