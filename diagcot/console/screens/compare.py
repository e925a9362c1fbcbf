"""`make compare`: the metrics and costs of two runs in one table."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from diagcot.console.screens import metrics_table
from diagcot.console.text import duration


def render(
    metrics: Mapping[str, Any], costs: Sequence[Mapping[str, Any]], notes: Sequence[str], screen: Console
) -> RenderableType:
    """The metrics of both runs' models in pairs, marked where B differs from A, then the cost of each run."""
    grid = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for heading in ("", "run", "stages", "work", "GPU-hours", "failed tasks", "recipe"):
        grid.add_column(heading, justify="left" if heading in ("", "run", "recipe") else "right", no_wrap=True)
    for letter, cost in zip("AB", costs, strict=True):
        grid.add_row(
            letter,
            cost["run"],
            str(cost["stages"]),
            duration(cost["work_s"]),
            f"{cost['gpu_hours']:.2f}",
            str(cost["failures"]),
            cost["recipe"],
        )
    return Group(metrics_table.render(metrics, screen), "", grid, *(Text(note, "yellow") for note in notes))
