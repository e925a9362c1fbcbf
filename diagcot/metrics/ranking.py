"""How well scores rank and mean what they say: AUC, average precision, calibration, thresholds; labels by columns.

Truth is (N, L): 1 present, 0 absent, NaN not known (in doubt), which counts in nothing. Scores are (N, L), 0 to 1; NaN is
a score that is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diagcot.metrics.intervals import Additive, Array, Metric, mean_of

BINS = 15  # of the calibration error (Guo et al. 2017)
_ROWS = 64  # draws computed at once, which bounds memory


@dataclass(frozen=True, eq=False)
class Ranking(Metric):
    """Mean over `columns` of the area under ROC ("auc") or of average precision ("ap") of weighted samples.

    Ties count half (Mann and Whitney 1947; Hanley and McNeil 1982). A column of one class in a draw is left out of that
    draw's mean; NaN if none is left.
    """

    scores: Array
    truth: Array
    kind: Literal["auc", "ap"]
    columns: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.scores)

    def under(self, times: Array, group: NDArray[np.intp]) -> Array:
        """See `Metric.under`; NaN for a draw without a column of both classes."""
        parts = [self._under(times[at : at + _ROWS], group) for at in range(0, len(times), _ROWS)]
        return np.concatenate(parts)

    def _under(self, times: Array, group: NDArray[np.intp]) -> Array:
        found = np.stack([self._column(times, group, column) for column in self.columns])
        known = np.isfinite(found)
        number = known.sum(axis=0)
        total = np.where(known, found, 0.0).sum(axis=0)
        return np.divide(total, number, out=np.full(len(times), np.nan), where=number > 0)  # type: ignore[no-any-return]

    def _column(self, times: Array, group: NDArray[np.intp], column: int) -> Array:
        known = np.flatnonzero(np.isfinite(self.truth[:, column]) & np.isfinite(self.scores[:, column]))
        scores = self.scores[known, column]
        order = np.argsort(-scores, kind="stable")
        ranked = known[order]
        starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0]) if len(ranked) else np.array([], dtype=int)
        if not len(starts):
            return np.full(len(times), np.nan)
        weights = times[:, group[ranked]]
        present = weights * (self.truth[ranked, column] == 1)
        hits = np.add.reduceat(present, starts, axis=1)  # of each distinct score, the highest first
        alarms = np.add.reduceat(weights - present, starts, axis=1)
        positives, negatives = hits.sum(axis=1), alarms.sum(axis=1)
        if self.kind == "auc":
            below = negatives[:, None] - np.cumsum(alarms, axis=1)
            area = (hits * (below + alarms / 2)).sum(axis=1)
            whole = positives * negatives
        else:
            caught = np.cumsum(hits, axis=1)
            claimed = caught + np.cumsum(alarms, axis=1)
            precision = np.divide(caught, claimed, out=np.zeros_like(caught), where=claimed > 0)
            area, whole = (precision * hits).sum(axis=1), np.where(negatives > 0, positives, 0.0)
        return np.divide(area, whole, out=np.full(len(times), np.nan), where=whole > 0)  # type: ignore[no-any-return]


def both_classes(truth: Array) -> tuple[int, ...]:
    """Columns that hold a present and an absent case: the others have no area under a curve."""
    return tuple(int(c) for c in np.flatnonzero(((truth == 1).any(axis=0)) & ((truth == 0).any(axis=0))))


def thresholds(scores: Array, truth: Array) -> Array:
    """For each column the threshold of the best F1, (L,); 0.5 for a column without a present case.

    A score at the threshold counts as present. To be chosen on validation data, never on those that are then scored.
    """
    found = np.full(truth.shape[1], 0.5)
    for column in range(truth.shape[1]):
        known = np.isfinite(truth[:, column]) & np.isfinite(scores[:, column])
        values, present = scores[known, column], truth[known, column] == 1
        if not present.any():
            continue
        order = np.argsort(-values, kind="stable")
        caught, claimed = np.cumsum(present[order]), np.arange(1, len(order) + 1)
        f1 = 2 * caught / (claimed + present.sum())
        last = np.r_[np.diff(values[order]) != 0, True]  # a threshold takes all samples of the same score
        best = int(np.argmax(np.where(last, f1, -1.0)))
        found[column] = values[order][best]
    return found


def decisions(scores: Array, truth: Array, at: Array) -> Array:
    """Additive counts of hard decisions, (N, L, 3): hits, false alarms, misses of scores >= `at` (L,)."""
    return confusion(scores >= at, truth)[..., :3]


def confusion(claimed: NDArray[np.bool_], truth: Array) -> Array:
    """Additive counts, (N, L, 4): hits, false alarms, misses, right rejections; all 0 where the truth is not known."""
    present, absent = truth == 1, truth == 0
    counts = [claimed & present, claimed & absent, ~claimed & present, ~claimed & absent]
    return np.stack(counts, axis=-1).astype(np.float64)


def balanced_accuracy(counts: Array) -> Array:
    """Mean over labels of (sensitivity + specificity) / 2: (..., L, 4) -> (...); labels of one class are left out.

    TMLSIAT/DiagCoT-main reports this as AUC, computed from hard decisions.
    """
    hit, alarm, miss, rejected = (counts[..., k] for k in range(4))
    present, absent = hit + miss, alarm + rejected
    known = (present > 0) & (absent > 0)
    rates = np.divide(hit, present, out=np.zeros_like(hit), where=known)
    rates = (rates + np.divide(rejected, absent, out=np.zeros_like(hit), where=known)) / 2
    number = known.sum(axis=-1)
    score: Array = np.divide(rates.sum(axis=-1), number, out=np.full(number.shape, np.nan), where=number > 0)
    return score


def calibration_error(scores: Array, truth: Array) -> Additive:
    """Expected calibration error over all labels together, 0 to 1 (Guo et al. 2017), in BINS bins of equal width.

    A score that is missing is wrong by 1, in a bin of its own, so that it cannot make up for another's error.
    """
    known, lost = np.isfinite(truth), np.isnan(scores)
    values, present = np.where(known & ~lost, scores, 1.0), np.where(known & ~lost, truth, 0.0)
    place = np.where(lost, BINS, np.minimum((values * BINS).astype(int), BINS - 1))
    counts = np.zeros((len(scores), BINS + 1, 3))
    rows = np.broadcast_to(np.arange(len(scores))[:, None], scores.shape)
    for column, part in enumerate((known.astype(np.float64), values * known, present)):
        np.add.at(counts[..., column], (rows, place), part)
    return Additive(counts, _expected_error)


def _expected_error(sums: Array) -> Array:
    number, said, true = sums[..., 0], sums[..., 1], sums[..., 2]
    total = number.sum(axis=-1)
    gap = np.abs(said - true).sum(axis=-1)
    score: Array = np.divide(gap, total, out=np.zeros_like(gap), where=total > 0)
    return score


def brier(scores: Array, truth: Array) -> Additive:
    """Mean squared error of the probabilities over all known labels, 0 to 1 (Brier 1950); 1 for a missing score."""
    known = np.isfinite(truth)
    error = np.where(known, np.where(np.isnan(scores), 1.0, (scores - truth) ** 2), 0.0)
    return Additive(np.stack([error.sum(axis=1), known.sum(axis=1).astype(np.float64)], axis=-1), mean_of)


def by_frequency(truth: Array, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Columns with both classes in three groups of like size by how often they are present: head, medium, tail."""
    columns = sorted(both_classes(truth), key=lambda column: (-float((truth[:, column] == 1).sum()), names[column]))
    third = len(columns) / 3
    cuts = round(third), round(2 * third)
    return {
        "head": tuple(columns[: cuts[0]]),
        "medium": tuple(columns[cuts[0] : cuts[1]]),
        "tail": tuple(columns[cuts[1] :]),
    }
