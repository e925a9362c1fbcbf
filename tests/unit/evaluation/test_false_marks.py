"""Marks of a table whose models do not differ: at most one table in twenty shows one, whatever its size."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from diagcot.evaluation.scores.columns import COLUMNS, Column
from diagcot.evaluation.scores.table import judge
from diagcot.metrics.intervals import LEAST_STUDIES, p_values

TABLES, MODELS, DATASETS = 300, 5, ("a", "b")
MAIN = [column for column in COLUMNS if column.main and column.interval is not None][:9]
Rows = list[dict[str, Any]]


def tables(studies: int, difference: float = 0.0) -> Iterator[Rows]:
    """Tables of five models on two collections, compared with the row above and with the first; the last model may differ."""
    rng = np.random.default_rng(studies)
    for _ in range(TABLES):
        rows: Rows = []
        for dataset in DATASETS:
            hard = rng.normal(size=(studies, 1, 1))  # a study is hard for all models and by all scores
            own = rng.normal(size=(studies, MODELS, 1))  # or for a model
            values = hard + 0.7 * own + 0.7 * rng.normal(size=(studies, MODELS, len(MAIN)))
            values[:, -1] += difference
            for model in range(MODELS):
                scores: dict[str, Any] = {column.name: {"studies": studies} for column in MAIN}
                against = {"start": model - 1, "base": 0} if model else {}
                for how, other in against.items():
                    gain = values[:, model] - values[:, other]
                    mean, error = gain.mean(axis=0), gain.std(axis=0, ddof=1) / studies**0.5
                    cells = zip(mean, error, p_values(mean, error, studies), MAIN, strict=True)
                    for value, half, p, column in cells:
                        ends = {"value": value, "low": value - 2 * half, "high": value + 2 * half}
                        scores[column.name][how] = {"model": str(other), **ends, "p": p}
                failures = {column.task: {"no_text": 0} for column in MAIN}
                rows.append({"dataset": dataset, "model": str(model), "scores": scores, "failures": failures})
        judge(rows, known())
        yield rows


def known() -> dict[str, Column]:
    return {column.name: column for column in MAIN}


def marks(rows: Rows, how: str = "start") -> list[tuple[str, str]]:
    return [
        (row["model"], cell[how]["verdict"])
        for row in rows
        for cell in row["scores"].values()
        if how in cell and cell[how]["verdict"] != "unclear"
    ]


@pytest.mark.parametrize("studies", [LEAST_STUDIES - 1, LEAST_STUDIES, 60])
def test_one_table_in_twenty_without_a_difference_shows_one(studies: int) -> None:
    false = sum(bool(marks(rows, "start") or marks(rows, "base")) for rows in tables(studies))
    error = 2 * (0.05 * 0.95 / TABLES) ** 0.5
    assert false / TABLES <= (0 if studies < LEAST_STUDIES else 0.05 + error), false


def test_a_large_difference_is_shown_and_no_other() -> None:
    found = [marks(rows, "start") for rows in tables(60, 1.2)]
    assert sum(len(one) for one in found) > 0.9 * TABLES * len(DATASETS) * len(MAIN)
    assert sum(model != "4" or verdict != "better" for one in found for model, verdict in one) <= 0.05 * TABLES


def test_a_difference_that_stands_there_twice_counts_once() -> None:
    pair = {"model": "0", "value": 0.1, "low": 0.05, "high": 0.15, "p": 0.03}
    failures = {MAIN[0].task: {"no_text": 0}}
    rows: Rows = [
        {"dataset": "a", "model": "0", "scores": {}, "failures": failures},
        {"dataset": "a", "model": "1", "failures": failures,
         "scores": {MAIN[0].name: {"studies": 60, "start": dict(pair), "base": dict(pair)}}},
    ]  # fmt: skip
    judge(rows, known())
    cell = rows[1]["scores"][MAIN[0].name]
    assert cell["start"]["p_holm"] == cell["base"]["p_holm"] == 0.03 and cell["start"]["verdict"] == "better"
