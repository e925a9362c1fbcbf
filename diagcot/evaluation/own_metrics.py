"""Metrics of the user's own, `path/to/file.py:function`: a number for each answer, whose mean is a column of the table.

The numbers stand in `about` of the predictions, so that another table of them, such as that of two runs, needs no code.

`python -m diagcot.evaluation.own_metrics file.py:function task` calls one once.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from diagcot.evaluation.scores.columns import Column
from diagcot.evaluation.settings import OwnMetric
from diagcot.jobs.environment import own_code
from diagcot.metrics.intervals import Metric, mean
from diagcot.rewards.trial import ANSWERS
from diagcot.tasks.predictions import Prediction

WHAT = "metric"
NUMBERS = "own_metrics"
"""Entry of `about`: column of the table -> the number that a metric of the user's own gives the answer."""


def check(metric: OwnMetric) -> None:
    """Import the file of a metric and call its function for two answers. Raises OwnCodeError if that fails."""
    own_code.check("diagcot.evaluation.own_metrics", WHAT, metric.name, metric.task)


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


def values(name: str, rows: Sequence[Prediction]) -> list[float]:
    """The number that the function gives each of these answers to one task.

    Raises OwnCodeError if it cannot be loaded, raises an error, or does not return a finite number for each answer.
    """
    function = own_code.function(own_code.module(Path(name.rpartition(":")[0]), WHAT), name, WHAT)
    scored = own_code.scores(
        WHAT,
        name,
        len(rows),
        lambda: function(
            answers=[row.answer for row in rows],
            references=[row.reference for row in rows],
            outputs=[row.output for row in rows],
            questions=[row.question for row in rows],
        ),
    )
    return [score["overall"] for score in scored]


def main(arguments: Sequence[str]) -> int:
    """Score an answer that is right and one that is empty. Returns the exit code."""
    name, task = arguments
    right = ANSWERS.get(task, ANSWERS["closed"])
    rows = [
        Prediction(str(number), "study", task, "trial", "model", answer, answer, right, "stop", False, [], question="?")
        for number, answer in enumerate((right, ""))
    ]
    return own_code.trial(lambda: values(name, rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
