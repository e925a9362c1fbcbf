"""Whether a claim holds: paired differences of two models on each seed, and over all seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diagcot.metrics.intervals import LEAST_STUDIES, LEVEL, Bootstrap, Interval, Metric

Verdict = Literal["holds", "does not hold", "not decided"]
RULE = (
    "The interval of a seed is a bootstrap over its studies, paired; that of the mean is Student's t over the seeds. A claim"
    " holds if the mean's 95 % interval lies above zero, or the interval of every seed does; it does not hold if they lie"
    f" below zero; else, and with fewer than {LEAST_STUDIES} studies, it is not decided. Nothing is corrected for the number"
    " of claims."
)


@dataclass(frozen=True)
class Pair:
    """Two models on the samples of one seed."""

    boot: Bootstrap
    better: Metric
    than: Metric


@dataclass(frozen=True)
class Weighed:
    """A claim on all seeds: the difference on each, their mean with its interval, and what follows."""

    seeds: tuple[Interval, ...]
    mean: Interval
    verdict: Verdict


def weigh(pairs: Sequence[Pair], low: bool) -> Weighed:
    """The verdict on a claim from its two models on each seed.

    low: the lower the score the better; differences are turned round, so that above zero always means better.
    """
    found = [pair.boot.difference(pair.better, pair.than) for pair in pairs]
    seeds = tuple(Interval(-one.value, -one.high, -one.low) if low else one for one in found)
    mean = over_seeds(seeds)
    verdict: Verdict = "not decided"
    if any(pair.boot.studies < LEAST_STUDIES for pair in pairs):
        return Weighed(seeds, mean, verdict)
    if mean.low > 0 or all(one.low > 0 for one in seeds):
        verdict = "holds"
    elif mean.high < 0 or all(one.high < 0 for one in seeds):
        verdict = "does not hold"
    return Weighed(seeds, mean, verdict)


def over_seeds(found: Sequence[Interval]) -> Interval:
    """The mean of a figure over seeds, and the 95 % interval of that mean (Student's t); of one seed, its own interval.

    Each seed has images and training of its own, so the spread of the values holds the chance of both.
    """
    from scipy.special import stdtrit

    if len(found) == 1:
        return found[0]
    values = np.array([one.value for one in found])
    half = float(stdtrit(len(values) - 1, 0.5 + LEVEL / 200)) * values.std(ddof=1) / math.sqrt(len(values))
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))
