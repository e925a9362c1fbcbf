"""The reasoning's figures in the table: with intervals, zeros for a reply without one, and no column where nobody reasons."""

from dataclasses import replace

import pytest

from diagcot.evaluation.scores.columns import COLUMNS, measured
from diagcot.evaluation.scores.reasoning import FIGURES, reasoning_metrics
from diagcot.metrics.intervals import Bootstrap, Metric
from diagcot.tasks.predictions import Prediction
from diagcot.tasks.prompts import reasoned

REPORT = "findings : the heart is enlarged . there is a left pleural effusion . impression : cardiomegaly ."
TRUE = Prediction(
    id="d/s1", study="d/s1", task="report", dataset="d", model="m", output="", answer=REPORT, reference=REPORT,
    finish="stop", phantom=True, images=[],
)  # fmt: skip


def row(number: int, think: str, reference: str = REPORT) -> Prediction:
    output = reasoned(think, REPORT) if think else REPORT
    return replace(TRUE, id=f"d/s{number}", study=f"d/s{number}", output=output, reference=reference)


def test_means_with_intervals_over_the_samples_that_state_something():
    rows = [
        row(1, "The heart is enlarged, and there is a left effusion."),
        row(2, "The heart is enlarged, and there is a right effusion."),
        row(3, ""),
        row(4, "The heart is enlarged.", reference="nothing of note"),
    ]
    found = reasoning_metrics(rows)
    boot = Bootstrap([one.study for one in rows], 200, 0)
    values = {}
    for name in FIGURES:
        metric = found[f"report_{name}"]
        assert isinstance(metric, Metric)
        interval = boot.interval(metric)
        values[name] = interval.value
        assert interval.low < interval.value < interval.high
    assert values["factuality"] == values["completeness"] == values["effectiveness"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert values["overall"] == pytest.approx((1 + 0.25 + 0) / 3)


def test_the_table_has_them_where_a_reply_reasons():
    names = {f"report_{name}" for name in FIGURES}
    assert names <= {column.name for column in COLUMNS if not column.main}
    words = {REPORT: REPORT}
    assert names <= set(measured([row(1, "The heart is enlarged.")], [], words))
    assert not names & set(measured([row(1, "")], [], words))
    nothing = reasoning_metrics([row(1, "The heart is enlarged.", reference="nothing of note")])
    assert set(nothing.values()) == {"no reference states a finding"}
