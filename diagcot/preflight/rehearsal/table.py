"""The table at the end of a rehearsal: what would have failed, and a line for each stage that would not."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from diagcot.preflight import screen as screens
from diagcot.preflight.finding import Finding
from diagcot.preflight.rehearsal.rows import Row

MOST_HOSTS = 4


def render(screen: Console, stages: Sequence[str], rows: Sequence[Row]) -> RenderableType:
    """One row for each problem or note, with the stages that have it; then one for each stage without any."""
    grid = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold", max_width=16)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    rows_of: dict[Finding, list[Row]] = {}
    for row in rows:
        if row.finding.level != "good":
            rows_of.setdefault(row.finding, []).append(row)
    for finding, same in sorted(rows_of.items(), key=lambda item: item[0].level != "bad"):
        names = ", ".join(dict.fromkeys(row.stage for row in same))
        body = screens.body(screen, finding, _hosts(same))
        grid.add_row(screens.mark(screen, finding.level), names, finding.subject, body)
    noted = {row.stage for same in rows_of.values() for row in same}
    for stage in stages:
        passed = [row for row in rows if row.stage == stage]
        if stage not in noted and passed:
            line = f"{len({row.finding.subject for row in passed})} checks{_hosts(passed)}"
            grid.add_row(screens.mark(screen, "good"), stage, "all good", Text(line))
    return Group(grid, Text(""), screens.verdict(rows_of))


def _hosts(rows: Sequence[Row]) -> str:
    hosts = dict.fromkeys(host for row in rows for host in row.hosts)
    more = f" and {len(hosts) - MOST_HOSTS} more" if len(hosts) > MOST_HOSTS else ""
    return f" [{', '.join(sorted(hosts)[:MOST_HOSTS])}{more}]" if hosts else ""
