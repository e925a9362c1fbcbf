"""Test images that training has seen are found again, whatever collection they are in, and are not asked about."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from diagcot.data.phantom.drawing import draw
from diagcot.data.phantom.findings import Findings
from diagcot.data.pixels import Jpeg, convert
from diagcot.data.study import Image, Study
from diagcot.jobs.cluster import Size
from diagcot.jobs.plans import plan
from diagcot.jobs.plans.units import Units
from diagcot.jobs.testing import context
from diagcot.shards import Shard
from diagcot.shards.audit.seen import SHARDS, SeenImages, seen_in_run
from diagcot.shards.writer import ShardWriter


def picture(seed: int, side: int = 200, quality: int = 95) -> Jpeg:
    low = np.random.default_rng(seed).normal(128, 60, (12, 12)).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Pillow.fromarray(low).resize((side, side), Pillow.Resampling.BICUBIC).save(out, "JPEG", quality=quality)
    made = convert(out.getvalue(), 128, 90)
    return replace(made, sha256=bytes([seed, side % 256, quality]) + bytes(29))


def study(dataset: str, name: str, split: str, image: str, origin: str = "") -> Study:
    return Study(dataset, name, f"p{name}", split, findings="Clear.", images=(Image(image, "PA", origin=origin),))


TRAINED = [
    (study("nih", "a", "train", "a.png"), picture(1)),
    (study("nih", "b", "validate", "b.png"), picture(2)),
    (study("nih", "c", "test", "c.png"), picture(3)),
]
TESTED = [
    (study("nih", "a", "test", "other.png"), picture(10), "the same study"),
    (study("rsna", "x", "test", "x.dcm", "nih/b.png"), picture(11), "the same image by name"),
    (study("nih", "n", "test", "a.png"), picture(12), "the same image by name"),
    (study("covid", "y", "test", "y.png"), picture(2), "the same file"),
    (study("covid", "z", "test", "z.png"), picture(1, side=300, quality=60), "the same picture"),
    (study("covid", "u", "test", "u.png"), picture(3), ""),  # training never saw the test split
    (study("covid", "v", "test", "v.png"), picture(20), ""),
]


def write(path: Path, rows: list[tuple[Study, Jpeg]]) -> Shard:
    path.parent.mkdir(parents=True, exist_ok=True)
    with ShardWriter(path) as out:
        for one, jpeg in rows:
            out.add(one, [jpeg])
    return Shard(path)


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Shard, Shard]:
    root = tmp_path / "shards" / "test"
    return write(root / "shard" / "00000.h5", TRAINED), write(
        root / "external" / "00000.h5", [row[:2] for row in TESTED]
    )


def test_each_way_in_which_an_image_is_known_again(shards: tuple[Shard, Shard]) -> None:
    trained, tested = shards
    seen = SeenImages([trained.path])
    assert [seen.why(tested, row) for row in range(tested.images)] == [why for *_, why in TESTED]
    assert [seen.why(trained, row) for row in range(3)] == ["the same study", "the same study", ""]
    assert SeenImages([]).why(tested, 0) == ""


def test_phantoms_of_the_same_findings_are_not_copies_of_each_other(tmp_path: Path) -> None:
    drawn = convert(draw("1", Findings(), "PA", 64).jpeg(), 64, 90)
    one = study("phantom", "1", "train", "i")
    first = write(tmp_path / "a.h5", [(one, drawn)])
    second = write(tmp_path / "b.h5", [(replace(one, id="2", split="test"), drawn)])
    assert first.image(0).phantom and SeenImages([first.path]).why(second, 0) == ""


def test_a_run_knows_what_its_models_have_seen(shards: tuple[Shard, Shard], tmp_path: Path) -> None:
    trained, tested = shards
    logs = tmp_path / "logs" / "test"

    def stage(name: str, kind: str, output: Path, **inputs: list[str]) -> None:
        plan.write(
            plan.Plan("test", name, "1", kind, {}, inputs, output, tmp_path / "work", tmp_path / "shards", 7, (), Size(), 1,
                      logs / name, units=Units(["0"]))
        )  # fmt: skip

    models = tmp_path / "models" / "test"
    stage("shard", SHARDS[0], trained.path.parent)
    stage("questions", "diagcot.cot.synthetic.questions", tmp_path / "shards" / "test" / "questions",
          shards=[str(trained.path.parent)])  # fmt: skip
    stage(
        "sft", "diagcot.training.kinds.sft", models / "sft", samples=[str(tmp_path / "shards" / "test" / "questions")]
    )
    stage("grpo", "diagcot.training.kinds.grpo", models / "grpo", model=[str(models / "sft")])
    ctx = context(tmp_path, stage="evaluate", inputs={"models": [str(models / "grpo")]})
    assert seen_in_run(ctx).why(tested, 0) == "the same study"
    other = tmp_path / "logs" / "other"  # a run that took the model from this one
    other.mkdir()
    taken = {"mine": {"run": "test", "stage": "grpo", "folder": str(logs), "product": ""}}
    (other / "reused.json").write_text(json.dumps(taken))
    there = replace(ctx, stage_dir=other / "evaluate", inputs={"models": [str(tmp_path / "models" / "other" / "mine")]})
    assert seen_in_run(there).why(tested, 0) == "the same study"
    ctx = context(tmp_path, stage="evaluate", inputs={"models": [str(models / "elsewhere")]})
    assert seen_in_run(ctx).why(tested, 0) == ""
