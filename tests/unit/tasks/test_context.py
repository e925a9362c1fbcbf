"""What a report is written from beside its images: the same in training, in rollouts and in evaluation."""

from pathlib import Path

import pytest

from diagcot.cot.search.sample import select_samples
from diagcot.cot.settings import CollectSettings
from diagcot.data.study import Image, Study, age_of, sex_of
from diagcot.evaluation.predict import samples_of
from diagcot.evaluation.settings import EvaluateSettings
from diagcot.jobs.testing import context
from diagcot.shards import Shard
from diagcot.shards.writer import ShardWriter
from diagcot.tasks.diagnosis import report_samples
from diagcot.tasks.prompt_set import PromptSet
from diagcot.tasks.views import ViewPolicy
from tests.unit.shards.test_seen import picture

ASKED = "Analyse this chest X-ray and write a diagnostic report."
EARLIER = "The images begin with those of an earlier study of this patient; report on the later study."


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    """Three studies of a patient, the second of two images, in each split."""
    path = tmp_path / "shards" / "test" / "shard" / "00000.h5"
    path.parent.mkdir(parents=True)
    with ShardWriter(path) as out:
        for split in ("train", "test"):
            for number, order in ((0, "1"), (1, "2"), (2, "3")):
                images = tuple(Image(f"{split}{number}{view}", view) for view in ("LATERAL", "PA")[number != 1 :])
                facts = {"indication": "Cough\n and <|im_end|>", "comparison": "None.", "age": "61", "sex": "female"}
                study = Study("clinic", f"{split}{number}", split, split, f"Report {number}.", order=order, images=images,
                              **(facts if number == 2 else {}))  # type: ignore[arg-type]  # fmt: skip
                out.add(study, [picture(10 * number + place) for place in range(len(images))])
    return Shard(path)


@pytest.mark.parametrize(("views", "rows"), [("study", (1, 2, 3)), ("image", (2, 3))])
def test_the_clinical_set_gives_the_facts_and_the_earlier_images_of_a_study(
    shard: Shard, views: ViewPolicy, rows: tuple[int, ...]
) -> None:
    first, *_, last = report_samples(shard, "x.h5", "train", views, PromptSet("clinical"))
    assert first.prompt == f"<image>{ASKED}" and [image.row for image in first.images] == [0]
    assert tuple(image.row for image in last.images) == rows  # of the earlier study all, or a frontal one
    assert last.prompt == (
        f"{'<image>' * len(rows)}{ASKED}\n{EARLIER}\n"
        "Patient: 61 years, female\nIndication: Cough and < |im_end|>\nComparison: None."
    )
    assert (last.study, last.answer, last.meta["view"]) == ("clinic/train2", "findings : report 2 .", "PA")
    default = list(report_samples(shard, "x.h5", "train", views))
    assert {sample.prompt.replace("<image>", "") for sample in default} == {ASKED}  # nothing changes without the set


def test_training_and_evaluation_ask_alike(shard: Shard, tmp_path: Path) -> None:
    from diagcot.training.data.dataset import from_shards

    settings = {"prompt_set": "clinical", "views": "study"}
    ctx = context(tmp_path, settings, stage="sft", inputs={"shards": [str(shard.path.parent)]})
    trained = [sample.prompt for sample in from_shards(ctx, "report", "train", "study")]
    evaluated = samples_of(shard, ctx.shards_root, "report", EvaluateSettings(**settings), "test", 1)  # type: ignore[arg-type]
    assert trained == [sample.prompt for sample in evaluated] and any(EARLIER in prompt for prompt in trained)


def test_chains_of_thought_are_about_the_later_report(shard: Shard, tmp_path: Path) -> None:
    settings = CollectSettings(tasks=("report",), views="study")
    samples = select_samples(shard, tmp_path / "shards", settings, texts=PromptSet("clinical"))
    assert {sample.study: sample.reference_report.lower() for sample in samples}[
        "clinic/train2"
    ] == "findings: report 2."
    assert EARLIER in next(sample.question for sample in samples if sample.study == "clinic/train2")


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("61", "61"),
        ("061Y", "61"),
        ("61.0", "61"),
        ("008M", "0"),
        ("30 years", "30"),
        ("411", ""),
        ("", ""),
        ("___", ""),
    ],
)
def test_ages(text: str, age: str) -> None:
    assert age_of(text) == age


def test_sexes() -> None:
    assert [sex_of(text) for text in ("F", "male", " Female", "Unknown", "")] == ["female", "male", "female", "", ""]
