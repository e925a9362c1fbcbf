"""Columns of the user's own metrics, from the number of each answer.

The numbers stand in `about` of the predictions, so that another table of them, such as that of two runs, needs no code.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from diagcot.evaluation.own_metrics import values
from diagcot.evaluation.scores.columns import Column
from diagcot.evaluation.settings import OwnMetric
from diagcot.metrics.intervals import Metric, mean
from diagcot.tasks.predictions import NUMBERS, Prediction


def columns(metrics: Iterable[OwnMetric]) -> list[Column]:
    """Their columns of a table."""
    return [Column(one.column, one.heading, one.task, low=one.better == "lower", bounds=None) for one in metrics]


def measured(rows: Sequence[Prediction], metrics: Sequence[OwnMetric]) -> list[Prediction]:
    """The predictions, those of the test split with their numbers in `about`. Raises OwnCodeError as `values` does."""
    found = list(rows)
    groups: dict[tuple[str, str, str], list[int]] = {}
    for place, row in enumerate(rows):
        if row.split == "test":
            groups.setdefault((row.dataset, row.task, row.model), []).append(place)
    for metric in metrics:
        for (_, task, _), places in groups.items():
            given = values(metric.name, [rows[place] for place in places]) if task == metric.task else []
            for place, number in zip(places, given, strict=bool(given)):
                about = found[place].about
                found[place] = replace(
                    found[place], about=about | {NUMBERS: about.get(NUMBERS, {}) | {metric.column: number}}
                )
    return found


def numbers(row: Prediction) -> Mapping[str, float]:
    """Column -> the number of an answer."""
    found: Mapping[str, float] = row.about.get(NUMBERS, {})
    return found


def means(rows: Sequence[Prediction]) -> dict[str, Metric]:
    """Column -> the mean of its numbers, which all of these predictions must have."""
    given = list(map(numbers, rows))
    return {name: mean([one[name] for one in given]) for name in given[0] if all(name in one for one in given)}
