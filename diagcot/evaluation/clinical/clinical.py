"""Kind clinical: models that read reports score every answer against its reference; a missing model costs its own metric.

A unit is one unit of the evaluation. Units of one shard and task follow each other, model by model, and what was read of
their references is kept from one to the next.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from diagcot.evaluation import predictions
from diagcot.evaluation.clinical.readers import Readers
from diagcot.evaluation.clinical.scores import score_row, write_scores
from diagcot.evaluation.settings import ClinicalSettings
from diagcot.jobs import Context, Result, Unit
from diagcot.metrics.clinical.weights import READERS


@contextmanager
def prepare(ctx: Context) -> Iterator[Readers]:
    """What the units of an array task share."""
    readers = Readers(ClinicalSettings.model_validate(ctx.settings))
    try:
        yield readers
    finally:
        readers.close()


def run(unit: Unit, shared: Readers, ctx: Context) -> Result | None:
    """`<unit>.jsonl`, `{id, task, model, scores, unread}` a line, and `<unit>.missing.json`, what could not be computed."""
    rows = sorted(predictions.tested(unit, ctx).values(), key=lambda row: row.id)
    records = ctx.records(unit)
    try:
        unscored = [row for row in rows if row.id not in records]
        for start in range(0, len(unscored), shared.batch):
            if ctx.stopping():
                return None
            chunk = unscored[start : start + shared.batch]
            for row, (scores, unread) in zip(chunk, shared.score(chunk, _shard(unit)), strict=True):
                records.append(score_row(row, scores, unread))
            ctx.progress(len(records), len(rows))
        scored = sorted(records.rows(), key=lambda row: row["id"])
    finally:
        records.close()
    return write_scores(unit, ctx, scored, list(READERS), shared.missing)


def _shard(unit: Unit) -> str:
    return ".".join(str(unit.params[name]) for name in ("task", "source", "shard"))
