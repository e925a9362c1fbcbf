"""The table at the end of a rehearsal: what would have failed, and a line for each stage that would not."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from diagcot.console import text
from diagcot.preflight.doctor.report import MARKS
from diagcot.preflight.finding import Finding
from diagcot.preflight.rehearsal.rows import Row

MOST_HOSTS = 4


def render(screen: Console, stages: Sequence[str], rows: Sequence[Row]) -> RenderableType:
    """One row for each thing that is bad or notable, with all stages that it was found in; then what is all good."""
    grid = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold", max_width=16)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    told: dict[Finding, list[Row]] = {}
    for row in rows:
        if row.finding.level != "good":
            told.setdefault(row.finding, []).append(row)
    for finding, found in sorted(told.items(), key=lambda item: item[0].level != "bad"):
        mark, style = MARKS[finding.level]
        body = Text(text.fits(screen, _on(finding.text, found)))
        if finding.remedy:
            body.append(text.fits(screen, f"\n→ {finding.remedy}"), style)
        names = ", ".join(dict.fromkeys(row.stage for row in found))
        grid.add_row(Text(text.fits(screen, mark), style), names, finding.subject, body)
    mark, style = MARKS["good"]
    seen = {row.stage for found in told.values() for row in found}
    for stage in stages:
        good = [row for row in rows if row.stage == stage]
        if stage not in seen and good:
            line = f"{len({row.finding.subject for row in good})} checks{_on('', good)}"
            grid.add_row(Text(text.fits(screen, mark), style), stage, "all good", Text(line))
    count = sum(finding.level == "bad" for finding in told)
    end = Text(f"{count} to mend before the chain is submitted", "red") if count else Text("ready", "green")
    return Group(grid, Text(""), end)


def _on(said: str, rows: Sequence[Row]) -> str:
    hosts = dict.fromkeys(host for row in rows for host in row.hosts)
    more = f" and {len(hosts) - MOST_HOSTS} more" if len(hosts) > MOST_HOSTS else ""
    return f"{said} [{', '.join(sorted(hosts)[:MOST_HOSTS])}{more}]" if hosts else said
