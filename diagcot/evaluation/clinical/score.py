"""Kind: models that read reports score every answer against its reference; what is not on disk costs its own metric.

A unit is one unit of the evaluation. Those of one shard and task follow each other, model by model, and what was read of
their references is kept from one to the next.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diagcot.evaluation import predictions
from diagcot.evaluation.clinical.weights import READERS, lacking
from diagcot.evaluation.predictions import Prediction
from diagcot.evaluation.settings import ClinicalSettings
from diagcot.jobs import Context, Result, Unit, UserError
from diagcot.metrics import text
from diagcot.metrics.radcliq import MODEL, radcliq_v1, words

_TOLD = (UserError, OSError, ImportError, RuntimeError)  # whose messages name files and shapes, and no report


class Readers:
    """The models that are there, loaded once for a task; `missing` says why the others are not."""

    def __init__(self, settings: ClinicalSettings) -> None:
        self._settings = settings
        self.batch = settings.batch
        self.missing: dict[str, str] = {}
        self._readers: dict[str, Any] | None = None
        self._shard = ""
        self._kept: dict[str, dict[str, Any]] = {}  # reader -> reference -> what was read of it, of one shard

    def score(self, rows: Sequence[Prediction], shard: str = "") -> list[dict[str, Any]]:
        """Scores of each row. A reader that fails is left out from then on, and `missing` says why.

        shard: whose rows these are; what is read of references is kept while it stays the same.
        """
        if self._readers is None:
            self._readers = self._loaded()
        if shard != self._shard:
            self._shard, self._kept = shard, {}
        texts = list(dict.fromkeys(side for row in rows for side in (row.answer, row.reference)))
        found: list[dict[str, Any]] = [{} for _ in rows]
        for name, reader in list(self._readers.items()):
            try:
                kept = self._kept.setdefault(name, {})
                new = [side for side in texts if side not in kept]
                read = kept | dict(zip(new, reader.read(new) if new else (), strict=True))
                kept |= {row.reference: read[row.reference] for row in rows}
                scores = [reader.compare(read[row.answer], read[row.reference]) for row in rows]
            except Exception as error:
                self.missing[name] = _reason(error)
                broken = self._readers.pop(name)
                if hasattr(broken, "close"):
                    broken.close()
                continue
            for mine, more in zip(found, scores, strict=True):
                mine.update(more)
        for row, mine in zip(rows, found, strict=True):
            _radcliq(row, mine)
        return found

    def close(self) -> None:
        """End what runs beside us."""
        for reader in (self._readers or {}).values():
            if hasattr(reader, "close"):
                reader.close()

    def _loaded(self) -> dict[str, Any]:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = {}
        for name in READERS:
            why = lacking(name, self._settings.weights)
            if why is None:
                try:
                    loaded[name] = _make(name)(self._settings.weights / name, device)  # type: ignore[operator]
                    continue
                except Exception as error:
                    why = _reason(error)
            self.missing[name] = why
        return loaded


def _make(name: str) -> Callable[[Path, str], Any]:
    if name == "chexbert":
        from diagcot.evaluation.clinical.chexbert import CheXbert

        return CheXbert
    if name == "distilroberta-base":
        from diagcot.evaluation.clinical.bertscore import BertScore

        return BertScore
    if name == "ratescore":
        from diagcot.evaluation.clinical.ratescore import RateScore

        return RateScore
    from diagcot.evaluation.clinical.radgraph import RadGraph

    return lambda folder, device: RadGraph(folder, device, name)


def _reason(error: Exception) -> str:
    """Why a reader failed, in one line that holds no report."""
    about = re.sub(r"\s+", " ", str(error))[:200] if isinstance(error, _TOLD) else ""
    return about if isinstance(error, UserError) else f"it failed ({type(error).__name__}{': ' * bool(about)}{about})"


def _radcliq(row: Prediction, scores: dict[str, Any]) -> None:
    """Add RadCliQ-v1 where its parts are there."""
    bleu = text.sentence_bleu([words(row.answer)], [words(row.reference)])[0, 1]
    parts = {**scores, "radgraph": scores.get("radgraph_radcliq"), "bleu2": float(bleu)}
    if all(parts.get(name) is not None for name in MODEL):
        scores["radcliq"] = radcliq_v1(parts)


@contextmanager
def prepare(ctx: Context) -> Iterator[Readers]:
    readers = Readers(ClinicalSettings.model_validate(ctx.settings))
    try:
        yield readers
    finally:
        readers.close()


def run(unit: Unit, shared: Readers, ctx: Context) -> Result | None:
    """`<unit>.jsonl`, `{id, task, model, scores}` a line, and `<unit>.missing.json`, what could not be computed."""
    path = next(path for path in ctx.files("predictions", f"{unit.key}.jsonl"))
    rows = sorted((row for row in predictions.read([path]) if row.split == "test"), key=lambda row: row.id)
    records = ctx.records(unit)
    try:
        left = [row for row in rows if row.id not in records]
        for start in range(0, len(left), shared.batch):
            if ctx.stopping():
                return None
            chunk = left[start : start + shared.batch]
            for row, scores in zip(chunk, shared.score(chunk, _shard(unit)), strict=True):
                records.append({"id": row.id, "task": row.task, "model": row.model, "scores": scores})
            ctx.progress(len(records), len(rows))
        scored = sorted(records.rows(), key=lambda row: row["id"])
    finally:
        records.close()
    return written(unit, ctx, scored, list(READERS), shared.missing)


def _shard(unit: Unit) -> str:
    return ".".join(str(unit.params[name]) for name in ("task", "source", "shard"))


def written(
    unit: Unit, ctx: Context, lines: Sequence[dict[str, Any]], readers: Sequence[str], missing: dict[str, str]
) -> Result:
    """A unit's two files: its scores, and what is missing, without the place of the models, since the table may be shared."""
    place = str(ctx.settings.get("weights") or "")
    told = {name: why.replace(place, "weights") if place else why for name, why in missing.items()}
    about = {"readers": list(readers), "missing": told}
    outputs = {
        ctx.output / f"{unit.key}.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        ctx.output / f"{unit.key}.missing.json": json.dumps(about, ensure_ascii=False, indent=1) + "\n",
    }
    staged = {path: ctx.staged(path) for path in outputs}
    for path, content in outputs.items():
        staged[path].write_text(content, encoding="utf-8")
    for name, why in missing.items():
        ctx.event("metric_missing", metric=name, why=why)
    return Result(staged, {"scored": len(lines), "missing": len(missing)})
