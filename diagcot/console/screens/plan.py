"""`make plan` and `DRY=1`: what would be submitted, with resources, GPU-hours, disk space, expected start and scripts."""

import datetime
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from diagcot.console import text
from diagcot.console.state import cost
from diagcot.console.state.cost import Plan, declared

if TYPE_CHECKING:
    from diagcot.jobs.forecast import Forecast

WIDE = 110
ARRAY_SIZE = 1001  # default of MaxArraySize (slurm.conf manual page)


def show(
    plans: Sequence[Plan],
    forecast: "Forecast",
    scripts: Mapping[str, str] | None = None,
    estimates: Mapping[str, Mapping[str, Any]] | None = None,
    command: str = "",
) -> None:
    """Print the plans in the order of submission, and their forecast.

    scripts: stage -> text of its job script. estimates: stage -> result of `diagcot.training.cost.estimate`.
    command: what submits them; empty if a submission would be refused.
    """
    screen = text.console()
    screen.print(render(plans, screen, forecast.limits.array_size if forecast.limits else ARRAY_SIZE))
    for line in [*cost.planned(estimates or {}), *expected(plans, forecast)]:
        style = "yellow" if line.startswith(("!", "?")) else ""
        screen.print(Text(text.fits(screen, line), style), soft_wrap=not screen.is_terminal)
    for stage, script in (scripts or {}).items():
        screen.print(Text(f"\n{stage}", "bold"))
        if screen.is_terminal:
            screen.print(Syntax(script.rstrip(), "bash", theme="ansi_dark", background_color="default", word_wrap=True))
        else:
            print(script.rstrip(), flush=True)
    hint = f"to submit: `{command}`" if command else "a submission would be refused, see the warnings"
    screen.print(Text(f"\nnothing was submitted; {hint}", "dim"), soft_wrap=True)


def expected(plans: Sequence[Plan], forecast: "Forecast", now: float | None = None) -> Iterator[str]:
    """Lines about disk space, starts and limits; warnings begin with `!`, failed queries with `?`."""
    roots: dict[str, list[str]] = {}
    for plan in plans:
        roots.setdefault(str(Path(plan["output"]).parent), []).append(plan["stage"])
    for root, stages in roots.items():
        if stages[0] in forecast.free:
            yield f"{text.home(Path(root))}: {_writes(stages, forecast)}"
    for stage, when in forecast.starts.items():
        if when:
            yield f"{stage} would start {start(when, time.time() if now is None else now)}"
    yield from forecast.notes
    yield from (f"! {line}" for line in forecast.warnings)
    yield from (f"? {line}" for line in forecast.unknown)


def _writes(stages: Sequence[str], forecast: "Forecast") -> str:
    known = {stage: size for stage in stages if (size := forecast.storage.get(stage)) is not None}
    parts = []
    if known:
        sizes = ", ".join(f"{stage} {text.size(size)}" for stage, size in known.items())
        parts.append(f"about {text.size(sum(known.values()))} will be written ({sizes})")
    if unknown := [stage for stage in stages if stage not in known]:
        parts.append(f"what {', '.join(unknown)} will write is not known")
    if work := max(((forecast.work.get(stage, 0), stage) for stage in stages), default=(0, "")):
        parts += [f"and for a time up to {text.size(work[0])} of checkpoints ({work[1]})"] if work[0] else []
    return "; ".join([*parts, f"{text.size(forecast.free[stages[0]])} free"])


def start(when: str, now: float) -> str:
    """Slurm's `2026-01-02T03:04:05` as a waiting time."""
    try:
        wait = datetime.datetime.fromisoformat(when).timestamp() - now
    except ValueError:
        return f"at {when}"
    return "immediately" if wait < 60 else f"in {text.duration(wait)}, at {when.replace('T', ' ')}"


def render(plans: Sequence[Plan], screen: Console, array_size: int = ARRAY_SIZE) -> RenderableType:
    """A table of the stages and their dependencies, and their total cost."""
    wide = screen.width >= WIDE
    headings = [
        "#",
        "stage",
        "follows",
        "units",
        "tasks",
        *(["arrays"] if wide else []),
        "each task" if wide else "task",
    ]
    headings += ["limit", "GPU-h", *(["partition"] if wide else [])]
    rows = [[text.fits(screen, cell) for cell in _cells(plan, wide, array_size)] for plan in plans]
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    widths[1] = min(widths[1], 24 if wide else 20)
    spare = screen.width - sum(widths) - len(widths)  # if negative, the column of dependencies is cut
    widths[2] = max(10, widths[2] + min(0, spare))
    grid = Table(box=None, padding=(0, 1, 0, 0), show_edge=False, header_style="dim")
    for name, width in zip(headings, widths, strict=True):
        right = name in ("units", "tasks", "arrays", "limit", "GPU-h")
        grid.add_column(
            name, justify="right" if right else "left", no_wrap=True, overflow="ellipsis", min_width=width,
            max_width=width,
        )  # fmt: skip
    for row in rows:
        grid.add_row(*row)
    hours = [declared(plan) for plan in plans]
    declared_hours, limit_hours = (sum(column) for column in zip(*hours, strict=True)) if hours else (0, 0)
    units, tasks = sum(plan["units"] for plan in plans), sum(plan["tasks"] for plan in plans)
    counts = [
        f"{count} {name}{'s' * (count != 1)}"
        for count, name in ((len(plans), "stage"), (units, "unit"), (tasks, "task"))
    ]
    total = f"{counts[0]}, {counts[1]} in {counts[2]}; GPU-hours: {text.number(round(declared_hours, 2))}"
    total += f" at the declared durations, {text.number(round(limit_hours, 2))} if every task used its full time limit"
    legend = "→ starts after the whole stage, ⇒ unit by unit"
    return Group(grid, Text(""), Text(text.fits(screen, legend), "dim"), Text(total))


def _cells(plan: Plan, wide: bool, array_size: int) -> list[str]:
    size, tasks = plan["resources"], plan["tasks"]
    return [
        str(plan["number"]),
        plan["stage"],
        follows(plan),
        text.count(plan["units"]),
        str(tasks),
        *([str(math.ceil(tasks / array_size) if tasks > 1 else "-")] if wide else []),
        task_resources(size, wide),
        time_limit(size["minutes"]),
        text.number(round(declared(plan)[1], 2)) if size["gpus"] else "-",
        *([size.get("partition") or "-"] if wide else []),
    ]


def follows(plan: Plan) -> str:
    """`⇒ cot → shard`, or `-` for a stage without dependencies."""
    edges = [f"{'⇒' if edge.get('each') else '→'} {edge['stage']}" for edge in plan.get("after", ())]
    return " ".join(edges) or "-"


def task_resources(size: Plan, wide: bool) -> str:
    """Resources of one task: `2 × 8 GPU` on a narrow screen, with CPUs and memory on a wide one."""
    ranks = f"{size['tasks_per_node']} ranks, " if size["tasks_per_node"] > 1 else ""
    gpus, cpus = size["gpus"] * size["tasks_per_node"], size["cpus"] * size["tasks_per_node"]
    nodes = f"{size['nodes']} × " if size["nodes"] > 1 else ""
    if not wide:
        return nodes + (f"{gpus} GPU" if gpus else f"{cpus} CPU")
    node_gb = cost.memory_gb(size)
    memory = f", {text.number(node_gb)} GB" if node_gb else ""
    return f"{nodes}({ranks}{f'{gpus} GPU, ' if gpus else ''}{cpus} CPU{memory})"


def time_limit(minutes: float) -> str:
    """A time limit as `10 m`, `1.5 h`, `2 d`."""
    for name, length in (("d", 1440), ("h", 60)):
        if minutes >= length:
            return f"{text.number(round(minutes / length, 1))} {name}"
    return f"{text.number(minutes)} m"
