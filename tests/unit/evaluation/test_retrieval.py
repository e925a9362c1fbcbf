"""Retrieval in the table: recall from ranks, in both directions, beside the scores of answers."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diagcot.evaluation.compare import compare
from diagcot.evaluation.predictions import IMAGES, write_parquet
from diagcot.evaluation.scores.table import table
from diagcot.evaluation.scores.text_tools import TextTools
from diagcot.jobs import Unit, UserError
from diagcot.tasks.predictions import Prediction
from launchers.evaluation import retrieval
from tests.stages import stage

RANKS = {"base": [(1, 7), (2, 30), (20, 3), (11, 12)] * 10, "align": [(1, 1), (1, 6), (5, 1), (30, 30)] * 10}


def rows() -> list[Prediction]:
    return [
        Prediction(
            id=f"d/{n}/image",
            study=f"d/{n}",
            task="retrieval",
            dataset="d",
            model=model,
            output="the lungs are clear",
            answer="the lungs are clear",
            reference=f"report {n}",
            finish="stop",
            phantom=True,
            images=[],
            about={"report_rank": report, "image_rank": image},
        )
        for model, ranks in RANKS.items()
        for n, (report, image) in enumerate(ranks)
    ]


def test_recall_is_the_share_of_ranks_up_to_k_and_the_mean_of_both_directions() -> None:
    found = table(rows(), list(RANKS), TextTools(), 200, 7)
    base, align = ({name: cell["value"] for name, cell in row["scores"].items()} for row in found["rows"])
    for k, report, image in ((1, 0.25, 0.0), (5, 0.5, 0.25), (10, 0.5, 0.5)):
        assert base[f"retrieval_report_recall_{k}"] == pytest.approx(report)
        assert base[f"retrieval_image_recall_{k}"] == pytest.approx(image)
        assert base[f"retrieval_recall_{k}"] == pytest.approx((report + image) / 2)
    assert [align[f"retrieval_recall_{k}"] for k in (1, 5, 10)] == pytest.approx([0.5, 0.625, 0.75])
    gain = found["rows"][1]["scores"]["retrieval_recall_1"]["start"]
    assert gain["model"] == "base" and gain["value"] == pytest.approx(0.375) and gain["verdict"] == "better"
    columns = {column["name"]: column for column in found["columns"]}
    assert [columns[f"retrieval_recall_{k}"]["title"] for k in (1, 5, 10)] == ["recall@1", "recall@5", "recall@10"]
    assert {column["family"] for column in columns.values()} == {"retrieval"}


def test_two_runs_are_compared_by_the_same_ranks(tmp_path: Path) -> None:
    for name, model in (("one", "base"), ("two", "align")):
        (tmp_path / name).mkdir()
        write_parquet(tmp_path / name / "predictions.parquet", [row for row in rows() if row.model == model])
    metrics, _, _ = compare(tmp_path / "one", tmp_path / "two", 200)
    assert metrics["rows"][1]["scores"]["retrieval_recall_5"]["start"]["value"] == pytest.approx(0.25)


def test_answers_of_two_runs_are_paired_by_the_digests_of_their_images(tmp_path: Path) -> None:
    """Another seed draws other phantoms under the same ids, and normal reports are alike."""
    runs = {
        "one": [shown(row, f"drawing {number}") for number, row in enumerate(rows()[:40])],
        "two": [shown(row, f"drawing {number + 100 * (number < 4)}") for number, row in enumerate(rows()[:40])],
        "old": rows()[:40],
    }
    for name, made in runs.items():
        (tmp_path / name).mkdir()
        write_parquet(tmp_path / name / "predictions.parquet", [replace(row, images=IMAGE) for row in made])
    metrics, _, notes = compare(tmp_path / "one", tmp_path / "two", 100)
    assert metrics["rows"][0]["samples"] == {"retrieval": 36}
    assert any("4 have an id that both runs have and another image or reference" in note for note in notes)
    metrics, _, notes = compare(tmp_path / "one", tmp_path / "old", 100)
    assert metrics["rows"][0]["samples"] == {"retrieval": 40}
    assert any("paired by id and reference alone" in note for note in notes)


def test_the_recipe_of_a_run_that_grew_is_its_newest_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "grown" / "1").mkdir(parents=True)
        write_parquet(tmp_path / name / "predictions.parquet", rows()[:40])
        (tmp_path / name / "recipe.yaml").write_text("name: first\n")
    grown = tmp_path / "two" / "grown" / "1"
    (grown / "recipe.yaml").write_text("name: second\n")
    (grown / "growth.json").write_text(json.dumps({"time": 0, "code": "c", "joined": [], "stages": {}}))
    _, costs, _ = compare(tmp_path / "one", tmp_path / "two", 100)
    digests = [hashlib.sha256(f"name: {name}\n".encode()).hexdigest()[:12] for name in ("first", "second")]
    assert [cost["recipe"] for cost in costs] == digests


IMAGE: list[dict[str, Any]] = [{"shard": "a.h5", "row": 0}]


def shown(row: Prediction, digest: str) -> Prediction:
    return replace(row, about=row.about | {IMAGES: [digest]})


def test_a_unit_is_a_model_and_a_source_since_all_its_shards_are_candidates() -> None:
    class View:
        def units_of(self, name: str) -> list[Unit]:
            return [Unit("00000"), Unit("00001")]

    view: Any = View()
    made = retrieval.units(stage("retrieval", {}, models=["base", "align"], shards=["shard"]), view)
    assert [unit.key for unit in made] == ["base.retrieval.shard", "align.retrieval.shard"]
    assert made[1].params == {"model": "align", "source": "shard", "shards": ["00000", "00001"]}
    with pytest.raises(UserError, match="needs two inputs: models"):
        retrieval.units(stage("retrieval", {}, shards=["shard"]), view)
