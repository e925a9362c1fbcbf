"""The table of a sweep: means over seeds, intervals, and marks against the first value."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diagcot.evaluation.scores.table import table
from diagcot.evaluation.scores.text_tools import TextTools
from diagcot.evaluation.settings import OwnMetric, SweepRow, SweepSettings
from diagcot.evaluation.study import sweep
from diagcot.jobs import Context, Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.metrics.intervals import LEAST_STUDIES
from diagcot.tasks.predictions import Prediction

SAMPLES = 60


def answers(model: str, right: int, seed: int) -> list[Prediction]:
    """`right` of SAMPLES answers name the finding."""
    rows = []
    for number in range(SAMPLES):
        said = "Edema" if number < right else "Pneumothorax"
        fields = (f"a/{seed}-{number}/x", f"a/{seed}-{number}", "open", "a", model, said, said, "Edema", "stop")
        rows.append(Prediction(*fields, phantom=True, images=[]))
    return rows


def found(
    folder: Path, right: dict[str, int], rows: list[SweepRow], seeds: list[int], metrics: Sequence[OwnMetric] = ()
) -> tuple[dict[str, Any], str]:
    stage = folder / "predictions" / "evaluate"
    stage.mkdir(parents=True)
    for model, count in right.items():
        text = "".join(json.dumps(row.row()) + "\n" for row in answers(model, count, int(model.split("-")[-1])))
        (stage / f"{model}.open.shard.00000.jsonl").write_text(text)
    settings = SweepSettings(rows=rows, seeds=seeds, tasks=["open"], draws=200, metrics=list(metrics))
    ctx: Context = replace(context(folder / "run", settings.model_dump()), inputs={"predictions": [str(stage)]})
    run_unit(sweep, Unit("sweep"), ctx)
    return json.loads((ctx.output / "sweep.json").read_text()), (ctx.output / "sweep.md").read_text()


def test_means_intervals_and_marks_against_the_first_value(tmp_path: Path) -> None:
    right = {"low-7": 20, "low-8": 22, "high-7": 50, "high-8": 52, "same-7": 21, "same-8": 21}
    rows = [SweepRow(model="grpo", values=name, stages=[f"{name}-7", f"{name}-8"]) for name in ("low", "high", "same")]
    table, text = found(tmp_path, right, rows, [7, 8])
    low, high, same = (row["scores"]["open_f1"] for row in table["rows"])
    assert (round(low["value"], 3), round(high["value"], 3), round(same["value"], 3)) == (0.35, 0.85, 0.35)
    assert low["low"] < low["value"] < low["high"]
    assert [one["verdict"] for one in (low, high, same)] == ["not decided", "holds", "not decided"]
    assert "| grpo | high | 0.850 [" in text and "] ▲ |" in text and "▼ |" not in text
    assert "Phantom images" in text and "Edema" not in text


def test_metrics_of_the_users_own_are_columns_with_marks_by_their_direction(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def error(answers, references, **rest):\n    return [float(a != r) for a, r in zip(answers, references)]\n"
    )
    rows = [SweepRow(model="grpo", values=name, stages=[f"{name}-7", f"{name}-8"]) for name in ("low", "high")]
    own = OwnMetric(name=f"{tmp_path}/mine.py:error", task="open", better="lower", title="mistakes")
    table, text = found(tmp_path, {"low-7": 20, "low-8": 22, "high-7": 50, "high-8": 52}, rows, [7, 8], [own])
    assert [round(row["scores"]["mine.error"]["value"], 3) for row in table["rows"]] == [0.65, 0.15]
    assert "| model | values | open F1 | mistakes |" in text and text.count("▲ |") == 2  # fewer mistakes are better


def test_a_model_without_a_score_on_one_seed_has_none(tmp_path: Path) -> None:
    rows = [
        SweepRow(model="grpo", values="a", stages=["low-7", "low-8"]),
        SweepRow(model="grpo", values="b", stages=["high-7", "gone-8"]),
    ]
    table, text = found(tmp_path, {"low-7": 20, "low-8": 22, "high-7": 50}, rows, [7, 8])
    assert "open_f1" not in table["rows"][1]["scores"] and "| grpo | b | – |" in text


def test_a_score_of_one_seed_has_the_interval_of_its_runs_table(tmp_path: Path) -> None:
    """Drawn with the same seed, in the table of a run, beside another run, and in a sweep, whatever the recipe's seed is."""
    rows = [SweepRow(model="grpo", values="a", stages=["low-7"])]
    swept, _ = found(tmp_path, {"low-7": 20}, rows, [7])
    cell = table(answers("low-7", 20, 7), ["low-7"], TextTools(), draws=200)["rows"][0]["scores"]["open_f1"]
    shown = swept["rows"][0]["scores"]["open_f1"]
    assert [shown[key] for key in ("value", "low", "high")] == [cell[key] for key in ("value", "low", "high")]
    assert cell["low"] < cell["value"] < cell["high"]


def test_a_sweep_over_few_studies_has_neither_interval_nor_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.unit.evaluation.test_sweep.SAMPLES", LEAST_STUDIES - 1)
    rows = [SweepRow(model="grpo", values=name, stages=[f"{name}-7"]) for name in ("low", "high")]
    swept, text = found(tmp_path, {"low-7": 2, "high-7": 17}, rows, [7])
    for row in swept["rows"]:
        one = row["scores"]["open_f1"]
        assert (one["low"], one["high"], one["verdict"]) == (None, None, "not decided")
    assert "| grpo | high | 0.895 |" in text
