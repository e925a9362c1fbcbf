"""Bootstrap intervals, studies drawn whole (Efron 1979; Field and Welsh 2007): Student's t over the error of the draws.

Percentiles of the draws would be too narrow where studies are few, and miss the value itself where the draws are biased;
`bench/coverage.py` measures how often the intervals of each figure hold the true value.

A draw says how often each sample counts, and a metric is a function of these weights. Nearly all are additive: a mean is
sum over number, BLEU a function of ten sums, so that all draws are one matrix product; those that rank samples (AUC) are
in `diagcot.metrics.ranking`. The difference of two models is taken draw by draw on the same studies.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TAIL = 2.5  # per cent on each side of a 95 % interval
_NOTHING = 1e-12  # spreads and differences below it are rounding
LEAST_STUDIES = 10
"""With fewer studies no figure has an interval, and no difference is called one."""


class Metric(ABC):
    """A score that can be computed on any draw of its N samples."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def under(self, times: Array, group: NDArray[np.intp]) -> Array:
        """Scores (D,) of D draws: times (D, G) is how often each group is drawn, group (N,) the group of a sample."""


@dataclass(frozen=True, eq=False)
class Additive(Metric):
    """Additive counts of every sample, (N, ...), and the function that turns their sums, (..., ...), into a score."""

    counts: Array
    score: Callable[[Array], Array]

    def __len__(self) -> int:
        return len(self.counts)

    def under(self, times: Array, group: NDArray[np.intp]) -> Array:
        """See `Metric.under`."""
        flat = self.counts.reshape(len(self.counts), -1)
        sums = np.zeros((times.shape[1], flat.shape[1]))
        np.add.at(sums, group, flat)
        return self.score((times @ sums).reshape(len(times), *self.counts.shape[1:]))


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def mean_of(sums: Array) -> Array:
    """The score of counts (value, 1): their mean."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros_like(sums[..., 0]), where=sums[..., 1] > 0)


def mean(values: Sequence[float] | Array) -> Additive:
    """The mean of per-sample values, shape (N,)."""
    column = np.asarray(values, dtype=np.float64)
    return Additive(np.stack([column, np.ones_like(column)], axis=-1), mean_of)


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
        if len(metric) != self.samples:
            raise ValueError(f"{len(metric)} rows of counts for {self.samples} samples")
        self._drawn[metric] = metric.under(self._times, self._study)
        return self._drawn[metric]

    def value(self, metric: Metric) -> float:
        """The score of all samples."""
        return float(metric.under(np.ones((1, self.studies)), self._study)[0])

    def interval(self, metric: Metric) -> Interval:
        """The score of all samples and its interval. Raises ValueError where there are no samples."""
        return self._interval(self.value(metric), self.draws(metric))

    def difference(self, ours: Metric, theirs: Metric) -> Interval:
        """Score of `ours` less score of `theirs` on the same samples, and its interval over the same draws."""
        return self._interval(self.value(ours) - self.value(theirs), self.draws(ours) - self.draws(theirs))

    def p_value(self, ours: Metric, theirs: Metric) -> float:
        """Two-sided p of no difference, 0 to 1: Student's t of the difference over its bootstrap error (Efron 1993, 12.4).

        It is never below 2^(1 - studies), the least p that exchanging the two models study by study could give.
        """
        difference = np.array([self.value(ours) - self.value(theirs)])
        return float(p_values(difference, (self.draws(ours) - self.draws(theirs))[:, None], self.studies)[0])

    def _interval(self, value: float, draws: Array) -> Interval:
        """Student's t over the error of the draws; of no width where the draws do not differ, as with a single study."""
        from scipy.special import stdtrit

        error = float(errors(draws[:, None], self.studies)[0])
        half = float(stdtrit(self.studies - 1, 1 - TAIL / 100)) * error if error > 0 else 0.0
        return Interval(value, value - half, value + half)


def errors(drawn: Array, studies: int) -> Array:
    """Standard errors (K,) of K figures from their draws (D, K), those that are not finite left out; 0 for a single study."""
    if studies < 2:
        return np.zeros(drawn.shape[1])
    kept = np.isfinite(drawn)
    number = np.maximum(kept.sum(axis=0), 1)
    mean = np.where(kept, drawn, 0.0).sum(axis=0) / number
    spread: Array = np.sqrt(np.where(kept, (drawn - mean) ** 2, 0.0).sum(axis=0) / number)
    return np.where(spread > _NOTHING, spread, 0.0) * np.sqrt(studies / (studies - 1))


def p_values(differences: Array, drawn: Array, studies: int) -> Array:
    """Two-sided p (K,) of no difference, of K differences and their draws (D, K): see `Bootstrap.p_value`."""
    from scipy.special import stdtr

    if studies < 2:
        return np.ones(len(differences))
    error = errors(drawn, studies)
    ratio = np.divide(-np.abs(differences), error, out=np.zeros_like(error), where=error > 0)
    p = np.where(error > 0, 2 * stdtr(studies - 1, ratio), np.abs(differences) <= _NOTHING)
    known = np.isfinite(differences) & np.isfinite(drawn).any(axis=0)
    return np.where(known, np.maximum(p, 2.0 ** (1 - studies)), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """p of each of several comparisons, adjusted so that one false difference among all is as rare as p says (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted
