"""An id that stands for two samples, and texts that not every model can read."""

from dataclasses import replace

import pytest

from diagcot.evaluation.aggregate import refuse_doubles
from diagcot.jobs import UserError
from diagcot.metrics.clinical.readers import LONGEST, readable
from diagcot.tasks.predictions import Prediction

ROW = Prediction(
    *("a/1/x", "a/1", "report", "a", "base", "one", "one", "two", "stop"), phantom=True, images=[]
)  # fmt: skip


def test_the_table_refuses_one_id_for_two_samples_of_a_model() -> None:
    refuse_doubles([ROW, replace(ROW, model="tuned"), replace(ROW, task="classification"), replace(ROW, id="a/2/x")])
    with pytest.raises(UserError, match="two samples of task report have the id a/1/x"):
        refuse_doubles([ROW, replace(ROW, answer="another")])


def test_models_read_whole_valid_texts_of_bounded_length() -> None:
    report = "Heart is  large.\nNo effusion."
    assert readable(report) == report
    assert readable("a \ud800 b") == "a ? b"
    assert readable("no edema " * 4500).split() == ["no", "edema"] * (LONGEST // 2)
