"""`make status`: the stages of a run in one table, printed once. The same table is the heart of the live screens."""

from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from diagcot.console import text
from diagcot.console.executor import ask
from diagcot.console.reasons import sentence
from diagcot.console.status import Run, Stage, snapshot
from diagcot.jobs.errors import UserError

WIDE = 110


def show(run_dir: Path) -> int:
    """Print the run once. Returns 1 if something failed, else 0; a UserError names the runs that exist."""
    require(run_dir)
    answer, screen = ask(run_dir), text.console()
    run = snapshot(run_dir, answer.jobs, answer.note, answer.ended)
    screen.print(render(run, screen))
    return 1 if any(stage.failed for stage in run.stages) else 0


def require(run_dir: Path) -> None:
    """Raise UserError where there is no such run, naming those that there are."""
    if run_dir.is_dir():
        return
    known = sorted(path.name for path in run_dir.parent.glob("*") if path.is_dir()) if run_dir.parent.is_dir() else []
    there = f"there are: {', '.join(known)}" if known else "none was started yet: `make demo` starts one"
    raise UserError(f"no run {run_dir.name!r} in {text.home(run_dir.parent)}; {there}")


def render(run: Run, screen: Console) -> RenderableType:
    """Heading, one row a stage, then what a person should know: why tasks wait, what failed, what to type."""
    return Group(heading(run), table(run, screen), *remarks(run, screen))


def heading(run: Run) -> Text:
    done = sum(stage.state == "done" for stage in run.stages)
    line = Text.assemble((run.name, "bold"), f"  {done} of {len(run.stages)} stages done")
    failed = sum(stage.failed for stage in run.stages)
    if failed:
        line.append(f", {failed} units failed", "red")
    return line


def table(run: Run, screen: Console) -> Table:
    wide = screen.width >= WIDE
    grid = Table(box=None, padding=(0, 1, 0, 0), expand=wide, show_edge=False, header_style="dim")
    grid.add_column("", width=2, no_wrap=True)
    grid.add_column("stage", no_wrap=True, overflow="ellipsis", max_width=24 if wide else 20)
    grid.add_column("progress", width=24 if wide else 12, no_wrap=True)
    grid.add_column("units", justify="right", no_wrap=True)
    grid.add_column("now", no_wrap=True, overflow="ellipsis")
    grid.add_column("time", justify="right", no_wrap=True)
    grid.add_column("left", justify="right", no_wrap=True)
    if wide:
        grid.add_column("figures", no_wrap=True, overflow="ellipsis", ratio=1)
    for stage in run.stages:
        cells = row(stage, screen, 24 if wide else 12)
        grid.add_row(*cells, *([Text(figures(stage), "dim" if stage.state == "done" else "")] if wide else []))
    return grid


def row(stage: Stage, screen: Console, width: int) -> list[Text | str]:
    mark = Text(text.fits(screen, text.MARKS[stage.state]), text.STYLES[stage.state])
    share = stage.done / stage.units if stage.units else 1.0
    progress = text.bar(screen, width, share, stage.fraction - share, stage.state)
    return [
        mark,
        stage.name,
        progress,
        f"{stage.done}/{stage.units}",
        now(stage),
        text.duration(stage.elapsed),
        text.duration(stage.eta),
    ]


def figures(stage: Stage) -> str:
    """What the stage last said of itself, after its throughput."""
    rate = f"{text.number(stage.rate * 60)}/min" if stage.rate and stage.units > 1 else ""
    return ", ".join(part for part in (rate, text.figures(stage.figures)) if part)


def now(stage: Stage) -> Text:
    """What the units that are not done are doing, in words: `2 run 5 wait 1 fail`."""
    words = (("running", "run"), ("pending", "wait"), ("failed", "fail"), ("unknown", "unknown"))
    line = Text()
    for state, word in words:
        if count := getattr(stage, state):
            line.append(f"{' ' if line else ''}{count} {word}", text.STYLES[state])
    return line or Text("done", text.STYLES["done"])


def remarks(run: Run, screen: Console) -> list[Text]:
    lines = []
    for stage in run.stages:
        if screen.width < WIDE and stage.state == "running" and (said := figures(stage)):  # no room for it in the table
            lines.append(Text(f"{stage.name}: {said}"))
        for reason, count in sorted(stage.reasons.items()):
            told = sentence(reason)
            if told != "waits for an earlier stage (Dependency)":  # the rule, not news
                lines.append(Text(f"{stage.name}: {count} {'unit' if count == 1 else 'units'}: {told}", "yellow"))
        if stage.unknown:
            text_ = "their tasks ended without a word (killed or interrupted); submit again to continue"
            lines.append(Text(f"{stage.name}: {stage.unknown} unknown: {text_}", "yellow"))
    if run.note and run.state != "done":
        lines.append(Text(run.note, "yellow"))
    if failed := [stage.name for stage in run.stages if stage.failed]:
        lines.append(Text(f"`make failures RUN={run.name}` shows why {', '.join(failed)} failed", "red"))
    return [Text(""), *lines] if lines else []
