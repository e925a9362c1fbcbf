"""Kind aggregate: writes the table, the report and one Parquet file of all predictions into the run's folder."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diagcot.evaluation import predictions
from diagcot.evaluation.clinical.scores import ClinicalScores
from diagcot.evaluation.report import card, history, report
from diagcot.evaluation.report.examples import examples
from diagcot.evaluation.scores import constant, own_numbers
from diagcot.evaluation.scores.table import Judged, collapsed, table
from diagcot.evaluation.scores.text_tools import TextTools
from diagcot.evaluation.scores.verdicts import verdicts
from diagcot.evaluation.settings import AggregateSettings, EvaluateSettings
from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state.files import digest
from diagcot.shards import shard_paths

MADE = ("metrics.json", "report.html", "report.md", "card.md")
EARLIER = "earlier"
"""Folder of the run for tables and pages that were made again, with other settings or more models."""


@contextmanager
def prepare(ctx: Context) -> Iterator[AggregateSettings]:
    """What the units of an array task share: the settings."""
    yield AggregateSettings.model_validate(ctx.settings)


def run(unit: Unit, shared: AggregateSettings, ctx: Context) -> Result | None:
    """The table and the report of the models in `unit.params["models"]`, in that order."""
    rows = own_numbers.measured(
        list(predictions.distinct(ctx.files("predictions", "*.jsonl"), compared=True)), shared.metrics
    )
    models = unit.params["models"]
    tools = TextTools(shared.java_s, shared.fallbacks)
    ctx.progress(0, 3, step="scores")
    stages = history.stages(ctx.output, (ctx.stage, unit.key))
    constants = own_numbers.measured(
        constant.answers(rows, ctx.shards_root, _asked_with(stages), ctx.seed), shared.metrics
    )
    found = table(
        *([*rows, *constants], [*models, constant.NAME], tools, shared.draws),
        r2gen=shared.r2gen,
        judged=_judged(ctx),
        clinical=ClinicalScores.read(ctx),
        starts=unit.params["starts"],
        controls=shared.controls,
        own=own_numbers.columns(shared.metrics),
    )
    for name, why in found["missing"].items():
        ctx.event("metric_missing", metric=name, why=why)
    warnings = [*history.nothing_of(stages), *collapsed(found["rows"])]
    metrics = {
        "run": ctx.run,
        "time": time.time(),
        **found,
        "models": models,
        "warnings": warnings,
        "verdicts": verdicts(found["rows"], found["columns"]),
    }
    ctx.progress(1, 3, step="examples")
    shown = list(examples(rows, models, ctx.shards_root, shared.examples))
    ctx.progress(2, 3, step="report")
    versions = history.versions(ctx.output) | history.prompt_sets(stages)
    folders = {(ctx.shards_root / image["shard"]).parent for row in rows for image in row.images}
    versions |= history.data_digests(folders)
    data = card.statement(path for folder in sorted(folders) for path in shard_paths(folder))
    outputs = {
        "metrics.json": json.dumps(metrics, indent=1, ensure_ascii=False) + "\n",
        "report.html": report.html(metrics, stages, shown, versions, history.truths(ctx.output, stages)),
        "report.md": report.markdown(metrics, stages),
        "card.md": card.markdown(metrics, stages, data, versions, report.table(metrics)),
    }
    _keep_earlier(ctx.output)
    staged = {ctx.output / name: _private(ctx.staged(ctx.output / name), text) for name, text in outputs.items()}
    whole = ctx.output / "predictions.parquet"
    staged[whole] = predictions.write_parquet(
        _private(ctx.staged(whole), ""), predictions.with_images(rows, ctx.shards_root)
    )
    ctx.progress(3, 3)
    counts: dict[str, Any] = {
        "predictions": len(rows),
        "models": len(models),
        "metrics_missing": len(found["missing"]),
        "needed": {"predictions": len(rows)},
    }
    return Result(staged, counts | {"warnings": collapsed(found["rows"])})


def _keep_earlier(run: Path) -> None:
    """Copy the table and pages that are about to be replaced to `earlier/<digest of the table>/`."""
    made = [path for name in MADE if (path := run / name).is_file()]
    if not (run / MADE[0]).is_file():
        return
    folder = run / EARLIER / digest(run / MADE[0])[:10]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in made:
        shutil.copy2(path, folder / path.name)


def _asked_with(stages: Sequence[history.Stage]) -> constant.SettingsOf:
    """The settings of the stage that has asked a task; the default ones where it is not known."""
    known = [EvaluateSettings.model_validate(s.settings) for s in stages if s.kind == "diagcot.evaluation.predict"]
    return lambda task: next((settings for settings in known if task in settings.tasks), EvaluateSettings())


def _judged(ctx: Context) -> Judged:
    """What the judge said of each prediction, where the recipe has one."""
    found: Judged = {}
    for row in predictions.joined(ctx.files("verdicts", "*.jsonl"), "same", _is_verdict):
        found.setdefault((row["task"], row["model"]), {})[row["id"]] = row["same"]
    return found


def _is_verdict(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(one is None or isinstance(one, bool) for one in value)


def _private(path: Path, text: str) -> Path:
    """Write a file that only its owner can read: the report shows images and report texts."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
    return path
