"""Kind: reads all predictions of a run and writes metrics.json, report.html and report.md into the run's folder."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diagcot.evaluation import history, predictions, report
from diagcot.evaluation.examples import examples
from diagcot.evaluation.score import TextTools
from diagcot.evaluation.settings import AggregateSettings
from diagcot.evaluation.table import table
from diagcot.evaluation.verdicts import verdicts
from diagcot.jobs.context import Context, Result, Unit


@contextmanager
def open(ctx: Context) -> Iterator[AggregateSettings]:
    yield AggregateSettings.model_validate(ctx.settings)


def run(unit: Unit, shared: AggregateSettings, ctx: Context) -> Result | None:
    """The table and the report of the models in `unit.params["models"]`, in that order."""
    rows = list(predictions.read(ctx.files("predictions", "*.jsonl")))
    models = unit.params["models"]
    tools = TextTools(shared.java_s)
    ctx.progress(0, 3, step="scores")
    found = table(rows, models, tools, shared.draws, ctx.seed)
    for name, why in tools.missing.items():
        ctx.event("metric_missing", metric=name, why=why)
    metrics = {"run": ctx.run, "time": time.time(), **found, "verdicts": verdicts(found["rows"], found["columns"])}
    ctx.progress(1, 3, step="examples")
    shown = list(examples(rows, models, ctx.shards_root, shared.examples))
    ctx.progress(2, 3, step="report")
    stages = history.stages(ctx.output)
    page = report.html(metrics, stages, shown, history.versions(ctx.output))
    outputs = {
        "metrics.json": json.dumps(metrics, indent=1, ensure_ascii=False) + "\n",
        "report.html": page,
        "report.md": report.markdown(metrics, stages),
    }
    staged = {ctx.output / name: _private(ctx.staged(ctx.output / name), text) for name, text in outputs.items()}
    ctx.progress(3, 3)
    return Result(staged, {"predictions": len(rows), "models": len(models), "metrics_missing": len(tools.missing)})


def _private(path: Path, text: str) -> Path:
    """Write a file that only its owner can read: the report shows films and report texts."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
    return path
