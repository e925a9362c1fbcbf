"""`make status`: the stages of a run in one table. The live screens show the same table."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from diagcot.console import text
from diagcot.console.state import cost
from diagcot.console.state.executor import query
from diagcot.console.state.headline import headline_costs
from diagcot.console.state.remarks import remarks, units
from diagcot.console.state.run import Run, Stage
from diagcot.console.state.status import snapshot
from diagcot.jobs import UserError
from diagcot.jobs.plans import reused

WIDE = 110


def show(run_dir: Path) -> int:
    """Print the run once. Returns 1 if something failed, is damaged, or a finished stage lacks what it must have, else 0.

    Raises UserError if there is no such run.
    """
    require(run_dir)
    answer, screen = query(run_dir), text.console()
    run = snapshot(run_dir, answer)
    screen.print(render(run, screen))
    return int(bool(run.damage) or any(stage.failed or stage.nothing_of for stage in run.stages))


def require(run_dir: Path) -> None:
    """Raises UserError that lists the existing runs if there is no such run."""
    if run_dir.is_dir():
        return
    known = sorted(path.name for path in run_dir.parent.glob("*") if path.is_dir()) if run_dir.parent.is_dir() else []
    existing = f"existing runs: {', '.join(known)}" if known else "none was started yet: `make demo` starts one"
    raise UserError(f"no run {run_dir.name!r} in {text.home(run_dir.parent)}; {existing}")


def render(run: Run, screen: Console, lines: int | None = None) -> RenderableType:
    """Heading, one row per stage, then remarks: why units wait, what failed, which command to type.

    lines: height of the screen, if the output must fit. Then finished stages, and after them waiting ones, share a row.
    """
    notes = [Text(text.fits(screen, line), "yellow") for line in [*_figures(run, screen), *remarks(run), *_costs(run)]]
    below = [Text(""), *notes] if notes else []
    room = None
    if lines is not None:
        head = 2  # heading of the run and heading of the table
        least = min(len(run.stages), 3)
        while below and lines - head - _height(below, screen) < least:
            below.pop()
        room = lines - head - _height(below, screen)
    return Group(heading(run), table(run, screen, room), *below)


def _height(lines: Sequence[Text], screen: Console) -> int:
    return sum(len(line.wrap(screen, screen.width)) or 1 for line in lines)


def heading(run: Run) -> Text:
    """Name of the run, finished stages, failed units, and GPU-hours."""
    done = sum(stage.state == "done" for stage in run.stages)
    line = Text.assemble((run.name, "bold"), f"  {done} of {len(run.stages)} stages done")
    failed = sum(stage.failed for stage in run.stages)
    if failed:
        line.append(f", {units(failed)} failed", "red")
    spent = round(sum(stage.gpu_spent for stage in run.stages), 2)
    left = round(sum(stage.gpu_left for stage in run.stages), 2)
    if spent or left:
        rest = f", about {text.number(left)} remaining" if left else ""
        line.append(f"; {text.number(spent)} GPU-hours spent{rest}")
    return line


def table(run: Run, screen: Console, room: int | None = None) -> Table:
    """The table of stages. room: maximum number of rows."""
    wide = screen.width >= WIDE
    grid = Table(box=None, padding=(0, 1, 0, 0), expand=wide, show_edge=False, header_style="dim")
    grid.add_column("", width=2, no_wrap=True)
    grid.add_column("stage", no_wrap=True, overflow="ellipsis", max_width=24 if wide else 20)
    grid.add_column("progress", width=24 if wide else 10, no_wrap=True)
    grid.add_column("units", justify="right", no_wrap=True)
    grid.add_column("now", no_wrap=True, overflow="ellipsis")
    for name, times in (
        ("time", [stage.elapsed for stage in run.stages]),
        ("left", [stage.eta for stage in run.stages]),
    ):
        least = max([4, *(len(text.duration(seconds)) for seconds in times)])
        grid.add_column(name, justify="right", no_wrap=True, min_width=least)
    cost = wide and any(stage.gpu_spent or stage.gpu_left for stage in run.stages)
    if cost:
        grid.add_column("GPU-h", justify="right", no_wrap=True)
    if wide:
        grid.add_column("figures", no_wrap=True, overflow="ellipsis", ratio=1)
    for entry in folded(run.stages, room):
        if isinstance(entry, Stage):
            cells = row(entry, screen, 24 if wide else 10)
            cells += [gpu_hours(entry)] if cost else []
            grid.add_row(*cells, *([Text(figures(entry), "dim" if entry.state == "done" else "")] if wide else []))
        else:
            state, many = entry
            mark = Text(text.fits(screen, text.MARKS[state]), text.STYLES[state])
            grid.add_row(mark, Text(f"{many} {'stages done' if state == 'done' else 'more waiting'}", "dim"))
    return grid


def folded(stages: Sequence[Stage], room: int | None) -> list[Stage | tuple[str, int]]:
    """The rows of a table of at most `room` rows: (state, number) replaces that many stages of one state."""
    rows: list[Stage | tuple[str, int]] = list(stages)
    for state in ("done", "pending"):
        over = len(rows) - room if room is not None else 0
        candidates = [stage for stage in stages if stage.state == state]
        hidden = candidates[: over + 1] if state == "done" else candidates[-over - 1 :]
        if over > 0 and len(hidden) > 1:
            at = rows.index(hidden[0])
            rows = [row for row in rows if row not in hidden]
            rows.insert(at, (state, len(hidden)))
    return rows


def row(stage: Stage, screen: Console, width: int) -> list[Text | str]:
    """Cells of a stage. width: of the progress bar, in characters."""
    mark = Text(text.fits(screen, text.MARKS[stage.state]), text.STYLES[stage.state])
    share = stage.done / stage.units if stage.units else 1.0
    progress = text.bar(screen, width, share, stage.fraction - share, stage.state)
    return [
        mark,
        stage.name,
        progress,
        f"{text.count(stage.done)}/{text.count(stage.units)}",
        now(stage),
        text.duration(stage.elapsed),
        text.duration(stage.eta),
    ]


def gpu_hours(stage: Stage) -> str:
    """`12.5+30`: spent, and left."""
    if not stage.gpu_spent and not stage.gpu_left:
        return ""
    spent, left = (text.number(round(hours, 1)) for hours in (stage.gpu_spent, stage.gpu_left))
    return spent if stage.state == "done" else f"{spent}+{left}"


def figures(stage: Stage) -> str:
    """Retried units and number of retries, throughput, and the last figures that the stage reported."""
    retrying = f"{text.count(stage.retrying)} retrying" if stage.retrying else ""
    retries = f"{text.count(stage.retries)} {'retry' if stage.retries == 1 else 'retries'}" if stage.retries else ""
    rate = f"{text.number(stage.rate * 60)}/min" if stage.rate and stage.units > 1 else ""
    return ", ".join(part for part in (retrying, retries, rate, text.figures(stage.figures)) if part)


def now(stage: Stage) -> Text:
    """States of the unfinished units: `2 run 1 fail 5 wait`. A narrow screen cuts the end, which matters least."""
    words = (("running", "run"), ("failed", "fail"), ("unknown", "unknown"), ("pending", "wait"))
    line = Text()
    for state, word in words:
        if number := getattr(stage, state):
            line.append(f"{' ' if line else ''}{text.count(number)} {word}", text.STYLES[state])
    return line or Text("done", text.STYLES["done"])


def _costs(run: Run) -> Iterator[str]:
    """What other runs have made, share of start-up, GPU-hours per thousand outputs, and the cost of training as estimated."""
    yield from _taken(run.path)
    if shares := [f"{stage.startup_share:.1%} of {stage.name}" for stage in run.stages if stage.startup_share]:
        yield f"share of start-up in task time: {', '.join(shares)}"
    for one in headline_costs(run):
        if one.per_thousand is not None:
            yield f"{one.stage}: {text.number(one.per_thousand)} GPU-hours for 1,000 {one.name}"
    yield from cost.compared(run.path, {s.name: s.gpu_spent for s in run.stages if s.state == "done" and s.gpu_spent})


def _taken(run_dir: Path) -> Iterator[str]:
    try:
        taken = reused.read(run_dir)
    except UserError:  # the run's remarks tell of it
        return
    for name, row in taken.items():
        gone = "" if (Path(row["folder"]) / row["stage"] / "plan.json").exists() else ", which is gone"
        yield f"{name}: taken from {row['run']}/{row['stage']}{gone}"


def _figures(run: Run, screen: Console) -> list[str]:
    """Figures of running stages, if the table is too narrow for them."""
    if screen.width >= WIDE:
        return []
    return [
        f"{stage.name}: {shown}"
        for stage in run.stages
        if (stage.running or stage.retrying or stage.retries) and (shown := figures(stage))
    ]
