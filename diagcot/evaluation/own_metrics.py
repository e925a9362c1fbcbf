"""Metrics of the user's own, `path/to/file.py:function`: a number for each answer, whose mean is a column of the table.

`python -m diagcot.evaluation.own_metrics file.py:function task` calls one once.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from diagcot.evaluation.settings import OwnMetric
from diagcot.jobs.environment import own_code
from diagcot.rewards.trial import ANSWERS
from diagcot.tasks.predictions import Prediction

WHAT = "metric"


def check(metric: OwnMetric) -> None:
    """Import the file of a metric and call its function for two answers. Raises OwnCodeError if that fails."""
    own_code.check("diagcot.evaluation.own_metrics", WHAT, metric.name, metric.task)


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
