"""Bootstrap intervals of additive metrics, studies drawn whole (Efron 1979; Field and Welsh 2007).

Every metric of the suite is a function of summed counts: a mean is sum over number, BLEU a function of ten sums. So a
draw is one row of a matrix product, and the difference of two models is taken draw by draw on the same studies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TAIL = 2.5  # per cent on each side of a 95 % interval


@dataclass(frozen=True, eq=False)
class Metric:
    """Additive counts of every sample, (N, ...), and the function that turns their sums, (..., ...), into a score."""

    counts: Array
    score: Callable[[Array], Array]


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def mean_of(sums: Array) -> Array:
    """The score of counts (value, 1): their mean."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros_like(sums[..., 0]), where=sums[..., 1] > 0)


def mean(values: Sequence[float] | Array) -> Metric:
    """The mean of per-sample values, shape (N,)."""
    column = np.asarray(values, dtype=np.float64)
    return Metric(np.stack([column, np.ones_like(column)], axis=-1), mean_of)


class Bootstrap:
    """Draws of studies with replacement. `studies` names each sample's study; samples of one study move together."""

    def __init__(self, studies: Sequence[str], draws: int = 1000, seed: int = 0) -> None:
        names, self._study = np.unique(np.array(studies, dtype=str), return_inverse=True)
        self.studies, self.samples = len(names), len(studies)
        self._draws, self._seed = draws, seed
        self._drawn: dict[Metric, Array] = {}  # a model meets two others and itself

    @cached_property
    def _times(self) -> Array:
        """How often each study is in each draw, (draws, studies)."""
        share = np.full(self.studies, 1 / self.studies)
        return np.random.default_rng(self._seed).multinomial(self.studies, share, self._draws).astype(np.float64)

    def draws(self, metric: Metric) -> Array:
        """The metric's score in every draw, (draws,). Raises ValueError if it has not one row for each sample."""
        if metric in self._drawn:
            return self._drawn[metric]
        if len(metric.counts) != self.samples:
            raise ValueError(f"{len(metric.counts)} rows of counts for {self.samples} samples")
        flat = metric.counts.reshape(self.samples, -1)
        sums = np.zeros((self.studies, flat.shape[1]))
        np.add.at(sums, self._study, flat)
        drawn = metric.score((self._times @ sums).reshape(self._draws, *metric.counts.shape[1:]))
        self._drawn[metric] = drawn
        return drawn

    def interval(self, metric: Metric) -> Interval:
        """The score of all samples and its interval. Raises ValueError where there are no samples."""
        return self._interval(float(metric.score(metric.counts.sum(axis=0))), self.draws(metric))

    def difference(self, ours: Metric, theirs: Metric) -> Interval:
        """Score of `ours` less score of `theirs` on the same samples, and its interval over the same draws."""
        value = float(ours.score(ours.counts.sum(axis=0)) - theirs.score(theirs.counts.sum(axis=0)))
        return self._interval(value, self.draws(ours) - self.draws(theirs))

    def _interval(self, value: float, draws: Array) -> Interval:
        low, high = np.percentile(draws, [TAIL, 100 - TAIL])
        return Interval(value, float(low), float(high))
