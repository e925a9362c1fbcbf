"""The models that read reports, loaded once for an array task, and the scores that they give to pairs of texts."""

from collections.abc import Mapping, Sequence
from typing import Any

from diagcot.evaluation.settings import ClinicalSettings
from diagcot.metrics import text
from diagcot.metrics.clinical.readers import FORMS, Reader, close, compare_each, load, read_each, why_failed
from diagcot.metrics.clinical.weights import READERS, missing_files
from diagcot.metrics.radcliq import MODEL, radcliq_v1, words
from diagcot.tasks.predictions import Prediction
from diagcot.text.reasoning import thought


class Readers:
    """The models that are on disk, loaded once for an array task; `missing` says why the others are not."""

    def __init__(self, settings: ClinicalSettings) -> None:
        self._settings = settings
        self._form = FORMS[settings.texts]
        self.batch = settings.batch
        self.missing: dict[str, str] = {}
        self._readers: dict[str, Reader] | None = None
        self._shard = ""
        self._kept: dict[str, dict[str, Any]] = {}  # reader -> reference -> what was read of it, of one shard

    def score(self, rows: Sequence[Prediction], shard: str = "") -> list[tuple[dict[str, Any], list[str]]]:
        """Scores of each row, and the readers that could not take one of its texts: for them it counts as an empty one.

        A reader that fails on a plain sentence is not used again, and `missing` says why.
        shard: where the rows come from; what was read of references is kept as long as it stays the same.
        """
        if self._readers is None:
            self._readers = self._loaded()
        if shard != self._shard:
            self._shard, self._kept = shard, {}
        pairs = [(self._form(row.answer), self._form(row.reference)) for row in rows]
        thoughts = [self._form(thought(row.output)) for row in rows]
        scores: list[tuple[dict[str, Any], list[str]]] = [({}, []) for _ in rows]
        for name, reader in list(self._readers.items()):
            try:
                compared = _compared(reader, pairs, thoughts, self._kept.setdefault(name, {}))
            except Exception as error:
                self.missing[name] = why_failed(error)
                close(self._readers.pop(name))
                continue
            for (row_scores, unread), (new_scores, whole) in zip(scores, compared, strict=True):
                row_scores.update(new_scores)
                if not whole:
                    unread.append(name)
        for pair, (row_scores, _) in zip(pairs, scores, strict=True):
            _radcliq(*pair, row_scores)
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


def _compared(
    reader: Reader, pairs: Sequence[tuple[str, str]], thoughts: Sequence[str], kept: dict[str, Any]
) -> list[tuple[Mapping[str, Any], bool]]:
    """Scores of each pair, and whether the reader could take its texts. kept: what was read of references; grows.

    thoughts: the reasoning before each answer, or nothing; a reader of graphs scores it too.
    """
    if not hasattr(reader, "reasoning"):
        thoughts = [""] * len(pairs)
    texts = dict.fromkeys(("", *(side for pair in pairs for side in pair), *thoughts))
    new = [side for side in texts if side not in kept]
    read = kept | dict(zip(new, read_each(reader, new) if new else (), strict=True))
    kept |= {reference: read[reference] for reference in ("", *(reference for _, reference in pairs))}
    empty = read[""]
    whole = [read[ours] is not None and read[theirs] is not None for ours, theirs in pairs]
    readings = {side: empty if reading is None else reading for side, reading in read.items()}
    taken = [(readings[ours], readings[theirs]) for ours, theirs in pairs]
    found = [
        (reader.compare(empty, pair[1]), False) if scores is None else (scores, both)
        for scores, pair, both in zip(compare_each(reader, taken), taken, whole, strict=True)
    ]
    for place, think in enumerate(thoughts):
        if think:
            scores, both = found[place]
            figures = reader.reasoning(readings[think], *taken[place])  # type: ignore[attr-defined]
            found[place] = {**scores, **figures}, both and read[think] is not None
    return found


def _radcliq(answer: str, reference: str, scores: dict[str, Any]) -> None:
    """Add RadCliQ-v1 if the scores that it needs are there."""
    bleu = text.sentence_bleu([words(answer)], [words(reference)])[0, 1]
    parts = {**scores, "radgraph": scores.get("radgraph_radcliq"), "bleu2": float(bleu)}
    if all(parts.get(name) is not None for name in MODEL):
        scores["radcliq"] = radcliq_v1(parts)
