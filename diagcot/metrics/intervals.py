"""Bootstrap intervals, studies drawn whole (Efron 1979; Field and Welsh 2007), studentised and symmetric (Hall 1988).

Each draw's distance from the value is measured in the draw's own error, which comes from the jackknife over studies; the
interval is the value and, to either side, its error times the 95th percentile of these distances. Percentiles of the draws
themselves are too narrow where studies are few or scores are skewed; `bench/coverage.py` measures how often the interval of
each figure holds the true value. With many studies Student's t over the error of the draws is the same.

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
LEVEL = 95  # per cent of intervals that hold the true value
LEAST_STUDIES = 20
"""With fewer studies no figure has an interval, and no difference is called one."""
MACRO_STUDIES = 200
"""From which on the interval of a macro F1 holds, in which a rare label counts as much as a frequent one."""
MANY_STUDIES = 300
"""From which on the error is that of the draws, which needs no jackknife."""
_NOTHING = 1e-12  # spreads and differences below it are rounding


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
        return _all_under([self], times, group)[0]


def _all_under(metrics: Sequence[Additive], times: Array, group: NDArray[np.intp]) -> list[Array]:
    """`Metric.under` of several, in one matrix product: what shares its counts is summed once."""
    tables = {id(metric.counts): metric.counts for metric in metrics}
    ends = np.cumsum([table[0].size for table in tables.values()], dtype=np.int64)
    flat = np.concatenate([table.reshape(len(group), -1) for table in tables.values()], axis=1)
    order = np.argsort(group, kind="stable")
    sums = np.zeros((times.shape[1], flat.shape[1]))
    present, starts = np.unique(group[order], return_index=True)
    sums[present] = np.add.reduceat(flat[order], starts, axis=0)
    parts = dict(zip(tables, np.split(times @ sums, ends[:-1], axis=1), strict=True))
    return [metric.score(parts[id(metric.counts)].reshape(len(times), *metric.counts.shape[1:])) for metric in metrics]


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
        self._values: dict[Metric, float] = {}
        self._influences: dict[Metric, Array] = {}

    def draw(self, metrics: Sequence[Metric]) -> None:
        """Draw the additive ones of several metrics at once, which is faster than each by itself."""
        some = [
            one for one in metrics if isinstance(one, Additive) and one not in self._drawn and len(one) == self.samples
        ]
        if some:
            self._drawn |= dict(zip(some, _all_under(some, self._times, self._study), strict=True))
            values = _all_under(some, np.ones((1, self.studies)), self._study)
            self._values |= {one: float(value[0]) for one, value in zip(some, values, strict=True)}

    def make_draws(self) -> None:
        """Draw the studies now rather than when the first metric needs them: another thread may."""
        _ = self._times

    @cached_property
    def _times(self) -> Array:
        """How often each study is in each draw, (draws, studies)."""
        share = np.full(self.studies, 1 / self.studies)
        return np.random.default_rng(self._seed).multinomial(self.studies, share, self._draws).astype(np.float64)

    def draws(self, metric: Metric) -> Array:
        """The metric's score in every draw, (draws,). Raises ValueError if it has not one row for each sample."""
        if metric not in self._drawn:
            self._drawn[metric] = self._under(metric, self._times)
        return self._drawn[metric]

    def _under(self, metric: Metric, times: Array) -> Array:
        if len(metric) != self.samples:
            raise ValueError(f"{len(metric)} rows of counts for {self.samples} samples")
        return metric.under(times, self._study)

    def influence(self, metric: Metric) -> Array:
        """What each study adds to the score of all, times their number, (studies,): by leaving it out (Tukey 1958)."""
        if metric not in self._influences:
            without = metric.under(np.ones((self.studies, self.studies)) - np.eye(self.studies), self._study)
            self._influences[metric] = (self.studies - 1) * (without.mean() - without)
        return self._influences[metric]

    def value(self, metric: Metric) -> float:
        """The score of all samples. Raises ValueError as `draws`."""
        if metric not in self._values:
            self._values[metric] = float(self._under(metric, np.ones((1, self.studies)))[0])
        return self._values[metric]

    def interval(self, metric: Metric) -> Interval:
        """The score of all samples and its interval. Raises ValueError where there are no samples."""
        return self._interval(self.value(metric), self.draws(metric), self._influence(metric))

    def difference(self, ours: Metric, theirs: Metric) -> Interval:
        """Score of `ours` less score of `theirs` on the same samples, and its interval over the same draws."""
        return self._interval(*self._pair(ours, theirs))

    def p_value(self, ours: Metric, theirs: Metric) -> float:
        """Two-sided p of no difference, 0 to 1: Student's t of the difference over its error.

        It is never below 2^(1 - studies), the least p that exchanging the two models study by study could give.
        """
        value, drawn, influence = self._pair(ours, theirs)
        return float(p_values(np.array([value]), np.array([self._error(drawn, influence)]), self.studies)[0])

    def _pair(self, ours: Metric, theirs: Metric) -> tuple[float, Array, Array | None]:
        mine, its = self._influence(ours), self._influence(theirs)
        influence = None if mine is None or its is None else mine - its
        return self.value(ours) - self.value(theirs), self.draws(ours) - self.draws(theirs), influence

    def _influence(self, metric: Metric) -> Array | None:
        return self.influence(metric) if 1 < self.studies < MANY_STUDIES else None

    def _error(self, drawn: Array, influence: Array | None) -> float:
        """Standard error of a score; 0 where it does not vary, NaN where it is not defined without some study."""
        if self.studies < 2:
            return 0.0
        variance = np.square(influence).mean() if influence is not None else self.studies * np.nanvar(drawn)
        error = float(np.sqrt(variance / (self.studies - 1)))
        return 0.0 if error <= _NOTHING else error

    def _interval(self, value: float, drawn: Array, influence: Array | None) -> Interval:
        """An interval of no width where the score does not vary, as with a single study, or has no error."""
        error = self._error(drawn, influence)
        if not error > 0:
            return Interval(value, value, value)
        half = error * (self._many() if influence is None else self._few(value, drawn, influence))
        return Interval(value, value - half, value + half)

    def _many(self) -> float:
        from scipy.special import stdtrit

        return float(stdtrit(self.studies - 1, 0.5 + LEVEL / 200))

    def _few(self, value: float, drawn: Array, influence: Array) -> float:
        """How many of its own errors a draw lies from the value, at the 95th percentile of the draws."""
        mean, square = self._times @ influence / self.studies, self._times @ np.square(influence) / self.studies
        errors = np.sqrt(np.maximum(square - np.square(mean), 0) / (self.studies - 1))
        known = np.isfinite(drawn) & (errors > _NOTHING)
        return float(np.percentile(np.abs(drawn[known] - value) / errors[known], LEVEL)) if known.any() else 0.0


def p_values(differences: Array, errors: Array, studies: int) -> Array:
    """Two-sided p of no difference of each of K differences (K,) with these errors (K,): see `Bootstrap.p_value`."""
    from scipy.special import stdtr

    if studies < 2:
        return np.ones(len(differences))
    ratio = np.divide(-np.abs(differences), errors, out=np.zeros_like(errors), where=errors > 0)
    p = np.where(errors > 0, 2 * stdtr(studies - 1, ratio), np.abs(differences) <= _NOTHING)
    return np.where(np.isfinite(differences) & np.isfinite(errors), np.maximum(p, 2.0 ** (1 - studies)), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """p of each of several comparisons, adjusted so that one false difference among all is as rare as p says (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted
