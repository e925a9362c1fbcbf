"""Agreement of the findings that two reports state: F1 over the CheXpert labels."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.metrics.intervals import Additive, mean

Array = NDArray[np.float64]
FINDINGS = tuple(name for name in CHEXPERT_LABELS if name != "No Finding")
"""What F1 over a data set counts. With No Finding, one normal report for every study beats most models."""
FIVE = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
"""The five labels of CheXpert's own competition (Irvin 2019)."""


def stated(rows: Sequence[Mapping[str, int]], names: Sequence[str] = CHEXPERT_LABELS) -> NDArray[np.bool_]:
    """Which of `names` each of N reports states, (N, len(names)). Uncertain (-1) counts as stated, as in F1CheXbert."""
    places = {name: place for place, name in enumerate(names)}
    found = np.zeros((len(rows), len(names)), dtype=bool)
    seen = [
        (row, places[name])
        for row, labels in enumerate(rows)
        for name, value in labels.items()
        if value in (1, -1) and name in places
    ]
    if seen:
        found[tuple(np.array(seen).T)] = True
    return found


def agreement(
    hyps: Sequence[Mapping[str, int]], refs: Sequence[Mapping[str, int]], names: Sequence[str] = CHEXPERT_LABELS
) -> Array:
    """Additive counts, (N, L, 3): true positives, false positives, false negatives of each of the L names."""
    if len(hyps) != len(refs):
        raise ValueError(f"{len(hyps)} reports cannot be compared with {len(refs)} references: give one reference each")
    ours, theirs = stated(hyps, names), stated(refs, names)
    return np.stack([ours & theirs, ours & ~theirs, ~ours & theirs], axis=-1).astype(np.float64)


def all_wrong(counts: Array, rows: NDArray[np.bool_]) -> Array:
    """The counts (N, L, 3) with those rows (N,) wrong in every label: what is there is missed, what is not is claimed."""
    there = counts[..., 0] + counts[..., 2]
    return np.where(rows[:, None, None], np.stack([np.zeros_like(there), 1 - there, there], axis=-1), counts)


def f1_of(counts: Array) -> Array:
    """F1 of summed counts: (..., 3) -> (...), 0 to 1; 1 where there was nothing to find and nothing was claimed."""
    hit, extra, missed = counts[..., 0], counts[..., 1], counts[..., 2]
    total = 2 * hit + extra + missed
    return np.divide(2 * hit, total, out=np.ones_like(total), where=total > 0)


def micro_f1(counts: Array) -> Array:
    """F1 over all labels together: (..., L, 3) -> (...)."""
    return f1_of(counts.sum(axis=-2))


def macro_f1(counts: Array) -> Array:
    """Mean of the labels' F1: (..., L, 3) -> (...). A label that neither side ever states is left out; 1 if all are."""
    seen = counts.sum(axis=-1) > 0
    total = np.where(seen, f1_of(counts), 0.0).sum(axis=-1)
    number = seen.sum(axis=-1)
    mean: Array = np.divide(total, number, out=np.ones_like(total), where=number > 0)
    return mean


Measure = Literal["f1", "precision", "recall"]
Average = Literal["micro", "macro", "weighted", "example-based"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
AVERAGES: tuple[Average, ...] = get_args(Average)


def averaged(counts: Array, measure: Measure, average: Average) -> Additive:
    """A measure of counts (N, L, 3) by an average, 0 to 1, as scikit-learn has it with zero_division=0.

    micro: of all labels together; macro: mean over labels; weighted: mean over labels, each as often as the references
    state it; example-based: mean over samples. What is not defined is 0: F1 of a label that nobody states or of a sample
    without labels on both sides, precision where nothing is claimed, recall where nothing is to be found.
    """
    if average == "example-based":
        return mean(_measured(counts.sum(axis=-2), measure))
    return Additive(counts, partial(_over_labels, measure=measure, average=average))


def _measured(counts: Array, measure: Measure) -> Array:
    hit, extra, missed = counts[..., 0], counts[..., 1], counts[..., 2]
    wrong = {"f1": (extra + missed) / 2, "precision": extra, "recall": missed}[measure]
    score: Array = np.divide(hit, hit + wrong, out=np.zeros_like(hit), where=hit > 0)
    return score


def _over_labels(counts: Array, measure: Measure, average: Average) -> Array:
    if average == "micro":
        return _measured(counts.sum(axis=-2), measure)
    each, often = _measured(counts, measure), counts[..., 0] + counts[..., 2]
    weights = often if average == "weighted" else np.ones_like(often)
    total = weights.sum(axis=-1)
    score: Array = np.divide((each * weights).sum(axis=-1), total, out=np.zeros_like(total), where=total > 0)
    return score


def f1(hyps: Sequence[str], refs: Sequence[str], names: Sequence[str] = FINDINGS) -> dict[str, float]:
    """Micro and macro F1 of reports against references, by the rule labeler: {"micro": 0 to 1, "macro": 0 to 1}."""
    from diagcot.data.reports.labeler import label

    counts = agreement([label(text) for text in hyps], [label(text) for text in refs], names).sum(axis=0)
    return {"micro": float(micro_f1(counts)), "macro": float(macro_f1(counts))}


def kappa(counts: Array) -> Array:
    """Cohen's kappa (1960) of two judges: summed counts of both yes, first alone, second alone, neither, (..., 4) -> (...).

    1 where both say the same of everything, 0 for agreement by chance; NaN where either never varies and they differ.
    """
    total = counts.sum(axis=-1)
    share = np.divide(counts, total[..., None], out=np.zeros_like(counts), where=total[..., None] > 0)
    agreed = share[..., 0] + share[..., 3]
    first, second = share[..., 0] + share[..., 1], share[..., 0] + share[..., 2]
    chance = first * second + (1 - first) * (1 - second)
    value: Array = np.divide(agreed - chance, 1 - chance, out=np.where(agreed == 1, 1.0, np.nan), where=chance < 1)
    return value
