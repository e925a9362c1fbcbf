"""`make traces`: how many chains of thought were kept or dropped, from the statistics of the stages of kind `traces`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from diagcot.console import text
from diagcot.console.screens.metrics_table import WRONG
from diagcot.console.screens.status import require
from diagcot.console.state.headline import HeadlineCost, headline_costs
from diagcot.console.state.status import snapshot
from diagcot.jobs import UserError
from diagcot.jobs.plans import stored
from diagcot.jobs.state.files import read_json

KIND = "diagcot.cot.review.traces"


def show(run_dir: Path) -> int:
    """Print the statistics of traces. Raises UserError if no stage of the run has written them yet."""
    require(run_dir)
    plans = {plan["stage"]: plan for plan in stored.whole(run_dir)[0] if plan.get("kind") == KIND}
    found = [(name, statistics) for name in sorted(plans) if (statistics := read_json(run_dir / f"{name}.json"))]
    if not found:
        stored.require_submitted(run_dir)
        reason = (
            "its stage of kind `traces` has not ended (make status)"
            if plans
            else "its recipe has no stage of kind `traces`"
        )
        raise UserError(f"run {run_dir.name} has no statistics of traces: {reason}")
    screen, costs = text.console(), headline_costs(snapshot(run_dir))
    for name, statistics in found:
        inputs = {edge["stage"] for edge in plans[name].get("after", ())}
        cost = next((cost for cost in costs if cost.stage in inputs), None)
        try:
            screen.print(render(statistics, cost, screen))
        except WRONG as error:
            raise UserError(
                f"{run_dir / name}.json is damaged, or was written by another version: remove it and run stage {name} again"
            ) from error
        page = text.home(run_dir / f"{name}.html")  # not wrapped, so that it can be copied
        screen.print(f"\nimages and texts of some traces: {page}", style="dim", soft_wrap=True)
    return 0


def render(statistics: Mapping[str, Any], cost: HeadlineCost | None, screen: Console) -> RenderableType:
    """Shares, costs, the number dropped by each rule, and the judge's criteria."""
    lines = [Text(text.fits(screen, line)) for line in _lines(statistics, cost)]
    rows = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for name in ("dropped by", "traces", "share"):
        rows.add_column(name, justify="left" if name == "dropped by" else "right")
    for rule, count in statistics["dropped"].items():
        rows.add_row(rule.replace("_", " "), str(count), f"{count / statistics['traces']:.0%}")
    parts: list[RenderableType] = [Text(f"{statistics['run']}: {statistics['stage']}", "bold"), *lines]
    parts += ["", rows] if statistics["dropped"] else []
    parts += ["", _criteria(statistics)] if statistics["criteria"] else []
    return Group(*parts)


def _lines(statistics: Mapping[str, Any], cost: HeadlineCost | None) -> Iterator[str]:
    kept, traces = statistics["kept"], statistics["traces"]
    share = f" ({kept / traces:.0%})" if traces else ""
    yield f"{kept} of {traces} traces kept{share}; for {statistics['forced']['kept']} of these the model was given the answer"
    if kept:
        each = statistics["per_kept"]
        yield f"a kept trace took {each['calls']:.1f} calls and {text.number(round(each['tokens']))} tokens"
    if cost and cost.per_thousand is not None:
        yield f"{text.number(cost.per_thousand)} GPU-hours for 1,000 kept traces"
    yield from _truth(statistics.get("truth", {}))
    if statistics["agreement"]["raw"] is not None:
        raw, kappa = _two_digits(statistics["agreement"]["raw"]), _two_digits(statistics["agreement"]["kappa"])
        yield f"judgements of one trace agree: {raw} of pairs, kappa {kappa}"


def _truth(truth: Mapping[str, Any]) -> Iterator[str]:
    """The share of kept traces that are true, errors of the verdicts, and the share of abnormal images."""
    for what, by in (("phantoms", "phantoms, by what is drawn"), ("labelled", "real studies, by their labels")):
        shares = [
            f"{name} {row['kept_true']} of {row['kept']}"
            + (f" ({row['kept_true'] / row['kept']:.0%})" if row["kept"] else "")
            for name, row in truth.get(what, {}).items()
        ]
        if shares:
            yield f"true of the kept traces, {by}: {', '.join(shares)}"
    if truth and not truth["phantoms"] and not truth["labelled"]:
        yield "no image is known apart from its report: how many traces are true is not known"
    for name, row in truth.get("verdicts", {}).items():
        yield (
            f"{name}: accepted {row['accepted']}, of these untrue {row['accepted_untrue']};"
            f" refused {row['refused']}, of these true {row['refused_true']}"
        )
    abnormal = truth.get("abnormal", {})
    if abnormal.get("kept"):
        kept, traces = abnormal["abnormal_kept"] / abnormal["kept"], abnormal["abnormal"] / abnormal["traces"]
        yield f"abnormal: {kept:.0%} of the kept traces, {traces:.0%} of all"


def _criteria(statistics: Mapping[str, Any]) -> Table:
    repeated = statistics["agreement"]["raw"] is not None
    grid = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    grid.add_column("criterion")
    for name in ("mean score", "failed", *(("agree", "kappa") if repeated else ())):
        grid.add_column(name, justify="right")
    for row in statistics["criteria"]:
        agreement = [_two_digits(row["raw"]), _two_digits(row["kappa"])] if repeated else []
        grid.add_row(row["name"], _two_digits(row["mean"]), str(row["failed"]), *agreement)
    return grid


def _two_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
