"""`DRY=1`: what would be submitted: the graph of stages, arrays, resources, GPU-hours, scripts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from diagcot.console import text

WIDE = 110
ARRAY_SIZE = 1001  # Slurm's default of MaxArraySize
Plan = Mapping[str, Any]  # the content of a plan.json


def show(
    plans: Sequence[Plan],
    scripts: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
    array_size: int = ARRAY_SIZE,
) -> None:
    """Print the plans in the order in which they would be submitted.

    `scripts`: stage -> text of its job script; `warnings`: sentences; `array_size`: MaxArraySize of the cluster.
    """
    screen = text.console()
    screen.print(render(plans, screen, array_size))
    for line in warnings:
        screen.print(Text(text.fits(screen, f"! {line}"), "yellow"), soft_wrap=True)
    for stage, script in (scripts or {}).items():
        screen.print(Text(f"\n{stage}", "bold"))
        if screen.is_terminal:
            screen.print(Syntax(script.rstrip(), "bash", theme="ansi_dark", background_color="default", word_wrap=True))
        else:
            print(script.rstrip(), flush=True)
    screen.print(Text("\nnothing was submitted: leave DRY=1 away to submit", "dim"), soft_wrap=True)


def render(plans: Sequence[Plan], screen: Console, array_size: int = ARRAY_SIZE) -> RenderableType:
    """A table of the stages, their edges, and the sum of what they may cost."""
    wide = screen.width >= WIDE
    grid = Table(box=None, padding=(0, 1, 0, 0), show_edge=False, header_style="dim")
    names = [plan["stage"] for plan in plans]
    longest = max(map(len, names), default=5)
    grid.add_column("#", no_wrap=True, min_width=1)
    grid.add_column("stage", no_wrap=True, overflow="ellipsis", min_width=min(longest, 24 if wide else 16))
    grid.add_column("follows", no_wrap=True, overflow="ellipsis")
    for name in ("units", "tasks", "arrays") if wide else ("units", "tasks"):
        grid.add_column(name, justify="right", no_wrap=True, min_width=5)
    grid.add_column("each task" if wide else "task", no_wrap=True, min_width=5)
    grid.add_column("limit", justify="right", no_wrap=True, min_width=5)
    grid.add_column("GPU-h", justify="right", no_wrap=True, min_width=5)
    if wide:
        grid.add_column("partition", no_wrap=True)
    for plan in plans:
        size, tasks = plan["resources"], plan["tasks"]
        cells = [
            str(plan["number"]),
            plan["stage"],
            text.fits(screen, follows(plan)),
            str(plan["units"]),
            str(tasks),
            *([str(math.ceil(tasks / array_size) if tasks > 1 else "-")] if wide else []),
            text.fits(screen, each(size, wide)),
            limit(size["minutes"]),
            text.number(round(gpu_hours(plan)[1], 2)) if size["gpus"] else "-",
        ]
        grid.add_row(*cells, *([size.get("partition") or "-"] if wide else []))
    likely, most = (sum(costs) for costs in zip(*(gpu_hours(plan) for plan in plans), strict=True)) if plans else (0, 0)
    units, tasks = sum(plan["units"] for plan in plans), sum(plan["tasks"] for plan in plans)
    total = f"{len(plans)} stages, {units} units in {tasks} tasks; GPU-hours: {text.number(round(likely, 2))}"
    total += f" by the declared durations, {text.number(round(most, 2))} if every task ran to its limit"
    legend = "→ follows the whole stage, ⇒ unit by unit"
    return Group(grid, Text(""), Text(text.fits(screen, legend), "dim"), Text(total))


def follows(plan: Plan) -> str:
    """`⇒ cot → shard`, or `-` for a stage that follows none."""
    edges = [f"{'⇒' if edge.get('each') else '→'} {edge['stage']}" for edge in plan.get("after", ())]
    return " ".join(edges) or "-"


def each(size: Mapping[str, Any], wide: bool) -> str:
    """Resources of one task: `2 × 8 GPU` on a narrow screen, with CPUs and memory on a wide one."""
    ranks = f"{size['tasks_per_node']} ranks, " if size["tasks_per_node"] > 1 else ""
    gpus, cpus = size["gpus"] * size["tasks_per_node"], size["cpus"] * size["tasks_per_node"]
    nodes = f"{size['nodes']} × " if size["nodes"] > 1 else ""
    if not wide:
        return nodes + (f"{gpus} GPU" if gpus else f"{cpus} CPU")
    memory = f", {text.number(size['mem_gb'])} GB" if size.get("mem_gb") else ""
    return f"{nodes}({ranks}{f'{gpus} GPU, ' if gpus else ''}{cpus} CPU{memory})"


def limit(minutes: float) -> str:
    """`10 m`, `1.5 h`, `2 d`."""
    for name, length in (("d", 1440), ("h", 60)):
        if minutes >= length:
            return f"{text.number(round(minutes / length, 1))} {name}"
    return f"{text.number(minutes)} m"


def gpu_hours(plan: Plan) -> tuple[float, float]:
    """(by the declared durations, at the time limits)."""
    size, tasks = plan["resources"], plan["tasks"]
    gpus = size["gpus"] * size["nodes"] * size["tasks_per_node"]
    seconds = tasks * plan.get("startup_s", 0) + plan["units"] * plan.get("unit_s", 0)
    most = tasks * size["minutes"] * 60
    return gpus * min(seconds, most) / 3600, gpus * most / 3600
