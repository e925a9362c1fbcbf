"""Kind `study`: tests claims about models on several seeds; writes study.json, study.md and study.html."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from diagcot.evaluation import predictions
from diagcot.evaluation.report import history
from diagcot.evaluation.scores.columns import COLUMNS, LOW, TEXTS, measured
from diagcot.evaluation.scores.text_tools import TextTools
from diagcot.evaluation.settings import Claim, StudySettings
from diagcot.evaluation.study import page
from diagcot.evaluation.study.claims import RULE, Pair, over_seeds, weigh
from diagcot.jobs import Context, Result, Unit, UserError
from diagcot.metrics.intervals import Bootstrap, Metric
from diagcot.tasks.predictions import Prediction

TITLES = {column.name: column.title for column in COLUMNS}
TASKS = {column.name: column.task for column in COLUMNS}


@contextmanager
def prepare(ctx: Context) -> Iterator[StudySettings]:
    """The stage's settings."""
    yield StudySettings.model_validate(ctx.settings)


def run(unit: Unit, settings: StudySettings, ctx: Context) -> Result | None:
    """The verdict on each claim, and the score of each model that a claim names."""
    rows = list(predictions.distinct(ctx.files("predictions", "*.jsonl"), compared=False))
    scores = Scores(rows, settings, ctx.seed)
    ctx.progress(0, 2, step="claims")
    claims = [about(claim, scores, settings) for claim in settings.claims]
    found = {
        "run": ctx.run,
        "seeds": settings.seeds,
        "phantom": {"samples": sum(row.phantom for row in rows), "of": len(rows)},
        "rule": RULE,
        "claims": claims,
        "models": models(scores, settings),
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
        staged[ctx.output / name].write_text(text, encoding="utf-8")
    ctx.progress(2, 2)
    verdicts = [claim["verdict"] for claim in claims]
    return Result(staged, {name: verdicts.count(name) for name in ("holds", "does not hold", "not decided")})


class Scores:
    """The scores of every model on every seed, each with the bootstrap over the studies of its seed."""

    def __init__(self, rows: Sequence[Prediction], settings: StudySettings, seed: int) -> None:
        self._rows: dict[tuple[str, str], dict[str, list[Prediction]]] = {}  # (model, task) -> split -> rows
        for row in sorted(rows, key=lambda row: row.id):
            self._rows.setdefault((row.model, row.task), {}).setdefault(row.split, []).append(row)
        texts = [side for row in rows if row.task in TEXTS for side in (row.answer, row.reference)]
        self._words: Mapping[str, str] = TextTools(settings.java_s).tokenize(list(dict.fromkeys(texts)))
        self._draws, self._seed = settings.draws, seed
        self._scores: dict[tuple[str, str], dict[str, Metric | str]] = {}
        self._boots: dict[tuple[str, ...], Bootstrap] = {}

    def get(self, model: str, column: str) -> tuple[Bootstrap, Metric] | str:
        """A model's score in a column and its bootstrap; or why it has no value."""
        key = model, TASKS.get(column, "")
        if "test" not in self._rows.get(key, {}):
            return f"{model} has no answers to the task {key[1] or 'of no name'}"
        rows = self._rows[key]
        if key not in self._scores:
            self._scores[key] = measured(rows["test"], rows.get("validate", []), self._words)
        metric = self._scores[key].get(column, f"a study does not compute {column}")
        return metric if isinstance(metric, str) else (self._boot(rows["test"]), metric)

    def _boot(self, rows: Sequence[Prediction]) -> Bootstrap:
        """One for all models with the same samples, so that their draws are paired."""
        ids = tuple(row.id for row in rows)
        if ids not in self._boots:
            self._boots[ids] = Bootstrap([row.study for row in rows], self._draws, self._seed)
        return self._boots[ids]

    def pair(self, claim: Claim, seed: int) -> Pair | str:
        """The two models of a claim on a seed; or why there is no value. Raises UserError if their samples differ."""
        better, than = (self.get(f"{name}-{seed}", claim.column) for name in (claim.better, claim.than))
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
    pairs = {number: scores.pair(claim, number) for number in settings.seeds}
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
            known = [scores.get(f"{name}-{number}", column) for number in settings.seeds]
            pairs = [one for one in known if not isinstance(one, str)]
            if len(pairs) == len(known):
                cells[column] = asdict(over_seeds([boot.interval(metric) for boot, metric in pairs]))
        table.append({"model": name, "scores": cells})
    return table
