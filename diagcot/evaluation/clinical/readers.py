"""The models that read reports, loaded once for an array task, and the scores that they give to pairs of texts."""

from collections.abc import Sequence
from typing import Any

from diagcot.evaluation.settings import ClinicalSettings
from diagcot.metrics import text
from diagcot.metrics.clinical.readers import Reader, close, load, readable, why_failed
from diagcot.metrics.clinical.weights import READERS, missing_files
from diagcot.metrics.radcliq import MODEL, radcliq_v1, words
from diagcot.tasks.predictions import Prediction


class Readers:
    """The models that are on disk, loaded once for an array task; `missing` says why the others are not."""

    def __init__(self, settings: ClinicalSettings) -> None:
        self._settings = settings
        self.batch = settings.batch
        self.missing: dict[str, str] = {}
        self._readers: dict[str, Reader] | None = None
        self._shard = ""
        self._kept: dict[str, dict[str, Any]] = {}  # reader -> reference -> what was read of it, of one shard

    def score(self, rows: Sequence[Prediction], shard: str = "") -> list[dict[str, Any]]:
        """Scores of each row. A reader that fails is not used again, and `missing` says why.

        shard: where the rows come from; what was read of references is kept as long as it stays the same.
        """
        if self._readers is None:
            self._readers = self._loaded()
        if shard != self._shard:
            self._shard, self._kept = shard, {}
        texts = list(dict.fromkeys(side for row in rows for side in (row.answer, row.reference)))
        scores: list[dict[str, Any]] = [{} for _ in rows]
        for name, reader in list(self._readers.items()):
            try:
                kept = self._kept.setdefault(name, {})
                new = [side for side in texts if side not in kept]
                read = kept | dict(zip(new, reader.read([readable(side) for side in new]) if new else (), strict=True))
                kept |= {row.reference: read[row.reference] for row in rows}
                compared = [reader.compare(read[row.answer], read[row.reference]) for row in rows]
            except Exception as error:
                self.missing[name] = why_failed(error)
                close(self._readers.pop(name))
                continue
            for row_scores, new_scores in zip(scores, compared, strict=True):
                row_scores.update(new_scores)
        for row, row_scores in zip(rows, scores, strict=True):
            _radcliq(row, row_scores)
        return scores

    def close(self) -> None:
        """End the processes of readers that have one."""
        for reader in (self._readers or {}).values():
            close(reader)

    def _loaded(self) -> dict[str, Reader]:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = {}
        for name in READERS:
            reason = missing_files(name, self._settings.weights)
            if reason is None:
                try:
                    loaded[name] = load(name, self._settings.weights, device)  # type: ignore[arg-type]
                    continue
                except Exception as error:
                    reason = why_failed(error)
            self.missing[name] = reason
        return loaded


def _radcliq(row: Prediction, scores: dict[str, Any]) -> None:
    """Add RadCliQ-v1 if the scores that it needs are there."""
    bleu = text.sentence_bleu([words(row.answer)], [words(row.reference)])[0, 1]
    parts = {**scores, "radgraph": scores.get("radgraph_radcliq"), "bleu2": float(bleu)}
    if all(parts.get(name) is not None for name in MODEL):
        scores["radcliq"] = radcliq_v1(parts)
