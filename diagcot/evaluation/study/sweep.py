"""Kind `sweep`: the scores of models that differ in settings, over seeds; writes sweep.json and sweep.md."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from diagcot.evaluation import predictions
from diagcot.evaluation.scores import own_numbers
from diagcot.evaluation.settings import SweepRow, SweepSettings
from diagcot.evaluation.study.claims import Pair, weigh
from diagcot.evaluation.study.page import line
from diagcot.evaluation.study.scores import Scores
from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state.files import write_text
from diagcot.metrics.intervals import LEAST_STUDIES

RULE = (
    "Scores are means over the seeds; in brackets the 95 % interval of the mean (Student's t over seeds; of one seed, a"
    " bootstrap over its studies). ▲▼: better or worse than the first row of the same model, where the 95 % interval of"
    " the mean of the paired differences, or that of every seed, leaves out zero,"
    f" and each has {LEAST_STUDIES} studies. Nothing is corrected for the number of values."
)
MARKS = {"holds": " ▲", "does not hold": " ▼", "not decided": ""}


@contextmanager
def prepare(ctx: Context) -> Iterator[SweepSettings]:
    """The stage's settings."""
    yield SweepSettings.model_validate(ctx.settings)


def run(unit: Unit, settings: SweepSettings, ctx: Context) -> Result | None:
    """The table of all rows."""
    rows = own_numbers.measured(
        list(predictions.distinct(ctx.files("predictions", "*.jsonl"), compared=False)), settings.metrics
    )
    scores = Scores(rows, settings.draws, settings.java_s, own_numbers.columns(settings.metrics))
    ctx.progress(0, len(settings.rows), step="scores")
    first: dict[str, SweepRow] = {}
    found = []
    for number, row in enumerate(settings.rows, 1):
        found.append(scored(row, first.setdefault(row.model, row), scores, settings))
        ctx.progress(number, len(settings.rows))
    table = {
        "run": ctx.run,
        "seeds": settings.seeds,
        "rule": RULE,
        "phantom": any(r.phantom for r in rows),
        "titles": {name: scores.columns[name].title for row in found for name in row["scores"]},
        "rows": found,
    }
    staged = {}
    for name, text in {"sweep.json": json.dumps(table, indent=1) + "\n", "sweep.md": markdown(table)}.items():
        staged[ctx.output / name] = ctx.staged(ctx.output / name)
        write_text(staged[ctx.output / name], text)
    values = sum(len(row["scores"]) for row in found)
    return Result(staged, {"models": len(found), "seeds": len(settings.seeds), "needed": {"scores": values}})


def scored(row: SweepRow, first: SweepRow, scores: Scores, settings: SweepSettings) -> dict[str, Any]:
    """An entry of `rows`: the scores (value, low, high, verdict) of a model in every column that has one on all seeds."""
    cells: dict[str, dict[str, Any]] = {}
    for column in (c for c in scores.columns.values() if c.main and c.task in settings.tasks):
        own = scores.of(row.stages, column.name)
        if own is None:
            continue
        verdict = "not decided"
        if row is not first and (other := scores.of(first.stages, column.name)):
            pairs = [Pair(mine[0], mine[1], its[1]) for mine, its in zip(own, other, strict=True) if mine[0] is its[0]]
            verdict = weigh(pairs, column.low).verdict if len(pairs) == len(own) else verdict
        cells[column.name] = {**(scores.over(row.stages, column.name) or {}), "verdict": verdict}
    return {"model": row.model, "values": row.values, "scores": cells}


def markdown(table: Mapping[str, Any]) -> str:
    """The table for people. No text or image of any study."""
    titles = table["titles"]
    lines = [f"# Sweep {table['run']}", ""]
    if table["phantom"]:
        lines += ["**Phantom images:** drawn, not of people.", ""]
    lines += [f"Seeds {', '.join(map(str, table['seeds']))}. {table['rule']}", ""]
    lines += [
        line(["model", "values", *titles.values()]),
        line(["---"] * (len(titles) + 2)),
    ]
    lines += [
        line([row["model"], row["values"], *(_cell(row["scores"].get(c)) for c in titles)]) for row in table["rows"]
    ]
    return "\n".join(lines) + "\n"


def _cell(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "–"
    interval = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
    return f"{one['value']:.3f}{interval}{MARKS[one['verdict']]}"
