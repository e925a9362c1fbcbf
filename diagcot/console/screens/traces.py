"""`make traces`: what became of a run's chains of thought, from the numbers that its stages of kind traces wrote."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from diagcot.console import text
from diagcot.console.screens.status import require
from diagcot.console.state.status import snapshot
from diagcot.console.state.yields import Yield, yields
from diagcot.jobs import UserError
from diagcot.jobs.plans import stored
from diagcot.jobs.state.files import read_json

KIND = "diagcot.cot.review.traces"


def show(run_dir: Path) -> int:
    """Print the traces of a run. Raises UserError if no stage of it has written their numbers yet."""
    require(run_dir)
    plans = {plan["stage"]: plan for plan in stored.plans(run_dir) if plan.get("kind") == KIND}
    found = [(name, told) for name in sorted(plans) if (told := read_json(run_dir / f"{name}.json"))]
    if not found:
        has = (
            "its stage of kind `traces` has not ended (make status)"
            if plans
            else "its recipe has no stage of that kind"
        )
        raise UserError(f"run {run_dir.name} has no statistics of traces: {has}")
    screen, made = text.console(), yields(snapshot(run_dir))
    for name, told in found:
        read = {edge["stage"] for edge in plans[name].get("after", ())}
        cost = next((one for one in made if one.stage in read), None)
        try:
            screen.print(render(told, cost, screen))
        except (LookupError, TypeError) as error:
            raise UserError(
                f"{run_dir / name}.json is not of this version: remove it and run stage {name} again"
            ) from error
        page = text.home(run_dir / f"{name}.html")  # in one piece, so that it can be copied
        screen.print(f"\nfilms and texts of some, to be read: {page}", style="dim", soft_wrap=True)
    return 0


def render(told: Mapping[str, Any], cost: Yield | None, screen: Console) -> RenderableType:
    """Shares, costs, what was dropped by which rule, and the judge's criteria."""
    lines = [Text(text.fits(screen, line)) for line in _lines(told, cost)]
    rows = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for name in ("dropped by", "traces", "share"):
        rows.add_column(name, justify="left" if name == "dropped by" else "right")
    for rule, count in told["dropped"].items():
        rows.add_row(rule.replace("_", " "), str(count), f"{count / told['traces']:.0%}")
    parts: list[RenderableType] = [Text(f"{told['run']}: {told['stage']}", "bold"), *lines]
    parts += ["", rows] if told["dropped"] else []
    parts += ["", _criteria(told)] if told["criteria"] else []
    return Group(*parts)


def _lines(told: Mapping[str, Any], cost: Yield | None) -> Iterator[str]:
    kept, traces = told["kept"], told["traces"]
    share = f" ({kept / traces:.0%})" if traces else ""
    yield f"{kept} of {traces} traces kept{share}; of the kept, the answer of {told['forced']['kept']} was given"
    if kept:
        each = told["per_kept"]
        yield f"a kept trace took {each['calls']:.1f} calls and {text.number(round(each['tokens']))} tokens"
    if cost and cost.per_thousand is not None:
        yield f"{text.number(cost.per_thousand)} GPU-hours for 1,000 kept traces"
    if told["agreement"]["raw"] is not None:
        raw, kappa = _two(told["agreement"]["raw"]), _two(told["agreement"]["kappa"])
        yield f"judgements of one trace agree: {raw} of pairs, kappa {kappa}"


def _criteria(told: Mapping[str, Any]) -> Table:
    repeated = told["agreement"]["raw"] is not None
    grid = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    grid.add_column("criterion")
    for name in ("mean score", "failed", *(("agree", "kappa") if repeated else ())):
        grid.add_column(name, justify="right")
    for row in told["criteria"]:
        more = [_two(row["raw"]), _two(row["kappa"])] if repeated else []
        grid.add_row(row["name"], _two(row["mean"]), str(row["failed"]), *more)
    return grid


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
