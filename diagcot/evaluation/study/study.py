"""Kind `study`: tests claims about models on several seeds; writes study.json, study.md and study.html."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from diagcot.evaluation import predictions
from diagcot.evaluation.report import history
from diagcot.evaluation.scores.columns import COLUMNS, LOW
from diagcot.evaluation.settings import Claim, StudySettings
from diagcot.evaluation.study import page
from diagcot.evaluation.study.claims import RULE, Pair, weigh
from diagcot.evaluation.study.scores import Scores
from diagcot.jobs import Context, Result, Unit, UserError
from diagcot.jobs.state.files import write_text

TITLES = {column.name: column.title for column in COLUMNS}
TASKS = {column.name: column.task for column in COLUMNS}


@contextmanager
def prepare(ctx: Context) -> Iterator[StudySettings]:
    """The stage's settings."""
    yield StudySettings.model_validate(ctx.settings)


def run(unit: Unit, settings: StudySettings, ctx: Context) -> Result | None:
    """The verdict on each claim, and the score of each model that a claim names."""
    rows = list(predictions.distinct(ctx.files("predictions", "*.jsonl"), compared=False))
    scores = Scores(rows, settings.draws, settings.java_s)
    ctx.progress(0, 2, step="claims")
    claims = [about(claim, scores, settings) for claim in settings.claims]
    scored = models(scores, settings)
    found = {
        "run": ctx.run,
        "seeds": settings.seeds,
        "phantom": {"samples": sum(row.phantom for row in rows), "of": len(rows)},
        "rule": RULE,
        "claims": claims,
        "models": scored,
        "seconds": sum(stage.seconds for stage in history.stages(ctx.output, (ctx.stage, unit.key))),
    }
    ctx.progress(1, 2, step="page")
    outputs = {
        "study.json": json.dumps(found, indent=1, ensure_ascii=False) + "\n",
        "study.md": page.markdown(found),
        "study.html": page.html(found),
    }
    staged = {}
    for name, text in outputs.items():
        staged[ctx.output / name] = ctx.staged(ctx.output / name)
        write_text(staged[ctx.output / name], text)
    ctx.progress(2, 2)
    verdicts = [claim["verdict"] for claim in claims]
    counts: dict[str, Any] = {name: verdicts.count(name) for name in ("holds", "does not hold", "not decided")}
    values = sum(len(model["scores"]) for model in scored)
    return Result(staged, counts | {"needed": {"scores of the models that claims name": values}})


def pair(claim: Claim, seed: int, scores: Scores) -> Pair | str:
    """The two models of a claim on a seed; or why there is no value. Raises UserError if their samples differ."""
    better, than = (scores.get(f"{name}-{seed}", claim.column) for name in (claim.better, claim.than))
    if isinstance(better, str) or isinstance(than, str):
        return better if isinstance(better, str) else str(than)
    if better[0] is not than[0]:
        raise UserError(
            f"{claim.better}-{seed} and {claim.than}-{seed} did not answer the same samples of {TASKS[claim.column]}:"
            " evaluate both with the same settings"
        )
    return Pair(better[0], better[1], than[1])


def about(claim: Claim, scores: Scores, settings: StudySettings) -> dict[str, Any]:
    """An entry of `claims`: the claim, its verdict, and the differences (value, low, high) by seed and in the mean."""
    entry = {**claim.model_dump(), "title": TITLES.get(claim.column, claim.column)}
    pairs = {number: pair(claim, number, scores) for number in settings.seeds}
    if missing := [f"seed {number}: {why}" for number, why in pairs.items() if isinstance(why, str)]:
        return entry | {"verdict": "not decided", "why": "; ".join(missing), "seeds": {}, "mean": None}
    weighed = weigh([pair for pair in pairs.values() if isinstance(pair, Pair)], claim.column in LOW)
    return entry | {
        "verdict": weighed.verdict,
        "why": "",
        "seeds": {str(number): asdict(one) for number, one in zip(settings.seeds, weighed.seeds, strict=True)},
        "mean": asdict(weighed.mean),
    }


def models(scores: Scores, settings: StudySettings) -> list[dict[str, Any]]:
    """Each model of a claim with its scores in the columns of all claims: the mean over seeds, and its interval."""
    names = dict.fromkeys(name for claim in settings.claims for name in (claim.than, claim.better))
    columns = dict.fromkeys(claim.column for claim in settings.claims)
    table = []
    for name in names:
        cells = {}
        for column in columns:
            if cell := scores.over([f"{name}-{number}" for number in settings.seeds], column):
                cells[column] = cell
        table.append({"model": name, "scores": cells})
    return table
