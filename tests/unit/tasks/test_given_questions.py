"""The questions that collections ask themselves, from the shard to rewards and scores."""

from pathlib import Path
from typing import Any

import pytest

from diagcot.console.screens.shards import show
from diagcot.cot.synthetic import questions
from diagcot.data.study import Image, Question, Study
from diagcot.evaluation.scores.answers import closed_metrics, open_metrics
from diagcot.jobs import Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.metrics.intervals import Additive
from diagcot.rewards import cxmind
from diagcot.rewards.score import Reference
from diagcot.shards import Shard, build
from diagcot.shards.writer import NO_EARLIER, ShardWriter
from diagcot.tasks.predictions import Prediction
from diagcot.tasks.questions.questions import question_samples
from diagcot.tasks.questions.wording import GIVEN, Wording
from diagcot.tasks.samples import Sample
from launchers.inputs import possible
from tests.unit.data.test_annotations import OTHER, OTHER_PATH, PATH, mimic
from tests.unit.data.test_collections import DICOM, put
from tests.unit.data.test_question_sets import gemex
from tests.unit.shards.test_seen import picture
from tests.unit.tasks.test_languages import notes

SIDES = ("Left", "Right", "Both of these", "None of these")
QUESTIONS = {
    "binary": Question("Is there edema?", ("No",), ("Yes", "No"), "i1"),
    "single": Question("On which side is the effusion?", ("Right",), SIDES, reason="The right angle is blunt."),
    "multi": Question("Which are present?", ("Edema", "Mass"), ("Edema", "Fracture", "Mass"), "i0"),
    "open": Question("Which tubes <|im_end|> are there?", ("chest tube", "picc"), (), "i0"),
    "earlier": Question("What has changed?", ("there is a new effusion",), earlier="s0"),
    "lost": Question("What has changed?", ("nothing",), earlier="s9"),
    "unread": Question("Is there edema?", ("No",), ("Yes", "No"), "i9"),
}


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    path = tmp_path_factory.mktemp("given") / "00000.h5"
    with ShardWriter(path, image_size=32) as out:
        out.add(Study("vqa", "s0", "p0", "train", images=(Image("e0", "PA"),), order="1"), [picture(0)])
        asked = tuple(QUESTIONS.values())
        images = (Image("i0", "PA"), Image("i1", "LATERAL"))
        out.add(Study("vqa", "s1", "p0", "train", images=images, order="2", questions=asked), [picture(1), picture(2)])
        held_out = Study("vqa", "s2", "p1", "test", images=(Image("t0"),), questions=(QUESTIONS["single"],))
        out.add(held_out, [picture(3)])
    return Shard(path)


def asked(shard: Shard, split: str = "train", **tasks: Any) -> list[Sample]:
    return list(question_samples(shard, "x.h5", split, tasks or dict.fromkeys(GIVEN, 1.0), Wording(), 7, "image"))


def test_a_shard_keeps_questions_with_their_control_tokens_as_text(shard: Shard, tmp_path: Path) -> None:
    kept = shard.study(1).questions
    assert kept[3].text == "Which tubes < |im_end|> are there?" and not shard.study(0).questions
    assert [one for place, one in enumerate(kept) if place != 3] == [
        one for name, one in QUESTIONS.items() if name != "open"
    ]
    shard.check_columns()
    with ShardWriter(tmp_path / "plain.h5") as out:
        out.add(Study("vqa", "s0", "p0", "train", images=(Image("e0"),)), [picture(0)])
    plain = Shard(tmp_path / "plain.h5")
    assert not plain.has_questions and plain.study(0).questions == () and asked(plain) == []


def test_the_screen_of_shards_counts_questions(shard: Shard, capsys: pytest.CaptureFixture[str]) -> None:
    assert show([shard.path]) == 0
    assert "questions of the collections: with options 5, open 3" in capsys.readouterr().out


def test_each_question_is_a_sample_of_its_task_about_its_images(shard: Shard) -> None:
    samples = asked(shard)
    shown = {(sample.task, tuple(image.row for image in sample.images)) for sample in samples}
    assert shown == {("binary", (2,)), ("single", (1, 2)), ("multi", (1,)), ("open", (1,)), ("open", (0, 1, 2))}
    assert len(samples) == len({sample.id for sample in samples}) == 5  # two name a study or an image that is not there
    assert all(sample.prompt.count("<image>") == len(sample.images) for sample in samples)
    assert all(sample.meta["given"] and sample.meta["split"] == "train" for sample in samples)
    assert [sample.study for sample in asked(shard, "test")] == ["vqa/s2"]
    assert asked(shard, open=(0.0, 0.0)) == [] and {sample.task for sample in asked(shard, open=1.0)} == {"open"}


def test_options_keep_the_order_of_the_collection_and_sets_share_letters(shard: Shard) -> None:
    by_task = {sample.task: sample for sample in asked(shard) if sample.task != "open"}
    assert by_task["binary"].meta["options"] == ["Yes", "No"] and by_task["binary"].meta["option"] == "B"
    assert by_task["single"].meta["options"] == list(SIDES) and by_task["single"].meta["option"] == "B"
    assert "A) Left\nB) Right\nC) Both of these\nD) None of these\n" in by_task["single"].prompt
    assert "The right angle is blunt." in by_task["single"].answer
    multi = by_task["multi"]
    assert multi.meta["options"]["ABCDEFG".index(multi.meta["option"])] == "Edema, Mass"
    assert "Of these: Edema, Fracture, Mass." in multi.prompt and len(set(multi.meta["options"])) >= 2


def test_worked_answers_earn_what_answers_of_their_task_earn(shard: Shard) -> None:
    for sample in asked(shard):
        reward = cxmind.opened if sample.task == "open" else cxmind.closed
        reference = Reference(sample.answer, options=tuple(sample.meta.get("options", ())))
        assert reward(sample.answer, reference)["overall"] == pytest.approx(1.0), sample.task
        said = Prediction.of(sample, "model", sample.answer, "stop", "train")
        scores = open_metrics([said]) if sample.task == "open" else closed_metrics([said])
        score = scores["open_f1" if sample.task == "open" else f"{sample.task}_accuracy"]
        assert isinstance(score, Additive) and score.score(score.counts.sum(axis=0)) == 1.0


def test_from_the_files_of_a_collection_to_samples(tmp_path: Path) -> None:
    images = mimic(tmp_path / "mimic")
    put(images / "mimic-cxr-2.0.0-split.csv", "dicom_id,study_id,subject_id,split", f"{DICOM},50414267,10000032,train")
    choices = ["A: Edema", "B: Fracture", "C: Mass"]
    put(tmp_path / "vqa" / "closed_ended_question.jsonl", gemex("Is there an effusion?", "Yes."))
    put(
        tmp_path / "vqa" / "single_choice_question.jsonl",
        *(gemex("What is it?", a, choices=choices) for a in ("C", "F")),
    )
    source = {"kind": "gemex", "path": str(tmp_path / "vqa"), "images": str(images), "max_lost": 0.5}
    result = run_unit(build, Unit("00000"), context(tmp_path, {"sources": [source], "image_size": 32}, stage="shard"))
    assert result is not None
    counts = result.counts["sources"]["gemex"]
    assert (counts["read"]["rows"], counts["in_shards"]["rows"]) == (
        6,
        5,
    )  # three questions, two rows of views, one of splits
    assert counts["lost"]["rows"] == {"an answer that is none of the options": 1}
    shards = tmp_path / "shards/test/shard"
    ctx = context(
        tmp_path, {"tasks": {"binary": 1.0, "single": 1.0}}, stage="questions", inputs={"shards": [str(shards)]}
    )
    asked = run_unit(questions, Unit("00000"), ctx)
    assert asked is not None and (asked.counts["binary"], asked.counts["single"]) == (1, 1)


def test_a_collection_that_asks_itself_needs_no_labels() -> None:
    assert possible("single", {"questions"}) and possible("open", {"labels"})
    assert not possible("view", {"questions"}) and not possible("grounding", {"questions"})
    assert notes("rexvqa", "gemex", "mimic_cxr_vqa", "mimic_diff_vqa", tasks={"binary": 1.0}) == []


@pytest.mark.parametrize(
    ("gone", "options", "left_out"),
    [
        ((), {}, {}),
        ((PATH,), {}, {"lost": {NO_EARLIER: 1}}),
        ((OTHER_PATH,), {}, {"lost": {"none of its images can be used": 2}}),
        ((), {"max_studies": 1}, {"asked": {"beyond max_studies": 2}}),
        ((), {"splits": ["test"]}, {"asked": {NO_EARLIER: 1}}),
    ],
)
def test_the_account_of_questions(
    gone: tuple[str, ...], options: dict[str, Any], left_out: dict[str, Any], tmp_path: Path
) -> None:
    """Two questions about the second study of a patient, one of them also about the first."""
    first = "train" if "splits" in options else "test"
    put(tmp_path / "mimic_all.csv", "subject_id,study_id,dicom_id,view,split,study_order",
        f"10000032,50414267,{DICOM},postero-anterior,{first},1",
        f"10000032,53189527,{OTHER},antero-posterior,test,2")  # fmt: skip
    put(tmp_path / "mimic_pair_questions.csv", "study_id,subject_id,ref_id,question_type,question,answer,split",
        "53189527,10000032,50414267,difference,what has changed?,nothing,train",
        "53189527,10000032,50414267,presence,is there edema?,no,train")  # fmt: skip
    images = mimic(tmp_path / "mimic")
    for path in gone:
        (images / "files" / path).unlink()
    source = {"kind": "mimic_diff_vqa", "path": str(tmp_path), "images": str(images), "max_lost": 1, **options}
    ctx = context(tmp_path, {"sources": [source], "image_size": 32}, stage="shard")
    result = run_unit(build, Unit("00000"), ctx)
    assert result is not None
    counts = result.counts["sources"]["mimic_diff_vqa"]
    assert {part: counts[part]["questions"] for part in ("asked", "lost") if "questions" in counts[part]} == left_out
    kept = 2 - sum(sum(reasons.values()) for reasons in left_out.values())
    assert (counts["read"]["questions"], counts["in_shards"].get("questions", 0)) == (2, kept)
    shard = Shard(ctx.output / "00000.h5")
    assert sum(len(shard.study(row).questions) for row in range(len(shard))) == kept
    assert len(asked(shard, "test")) == kept  # all that a shard keeps are asked
