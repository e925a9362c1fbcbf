"""Questions in two steps: the answer against the findings that a phantom was drawn from, and what is not asked."""

from collections import Counter, defaultdict
from typing import Any

import pytest

from diagcot.data.phantom.findings import Findings
from diagcot.data.phantom.tree import write_tree
from diagcot.data.study import Box, Image, Study
from diagcot.jobs import Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.shards import Shard, build, shard_paths
from diagcot.tasks.questions.combined_questions import COMBINATIONS, combined
from diagcot.tasks.questions.context import QuestionContext
from diagcot.tasks.questions.questions import question_samples
from diagcot.tasks.questions.wording import Wording
from diagcot.tasks.samples import Sample
from diagcot.tasks.views import StudyView
from diagcot.text.layout import pairs


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    root = tmp_path_factory.mktemp("combined")
    (root / "tree").mkdir()
    write_tree(root / "tree", 400, seed=3, size=48)
    source = {"kind": "mimic_cxr", "path": str(root / "tree")}
    run_unit(build, Unit("00000"), context(root, {"sources": [source], "image_size": 48}, stage="shard"))
    return Shard(shard_paths(root / "shards/test/shard")[0])


@pytest.fixture(scope="module")
def samples(shard: Shard) -> list[Sample]:
    return list(question_samples(shard, "x.h5", "train", {"combined": 1.0}, Wording(), 7, "image"))


def expected(kind: str, shown: Findings) -> str:
    """The right option, from the findings that the phantom was drawn from."""
    effusions = {effusion.side: effusion.size for effusion in shown.effusions}
    heart, both = shown.heart != "normal", len(effusions) == 2
    zones = {(place.side, place.zone) for place in (*shown.opacities, *shown.nodules)}
    zones |= {(side, "lower") for side in shown.atelectasis}
    device = {"pacemaker": "left", "line": "right"}.get(shown.device)
    if kind == "larger_effusion":
        if both:
            return (
                "Equal on both sides"
                if len(set(effusions.values())) == 1
                else max(effusions, key=effusions.__getitem__)
            )
        return next(iter(effusions)).capitalize() if effusions else "No effusion"
    if kind == "heart_and_fluid":
        return ("Both" if both else "Only the heart") if heart else "Only the fluid" if both else "Neither"
    if kind == "heart_failure":
        return "Yes" if heart and (shown.edema or effusions) else "No"
    if kind == "abnormal_zones":
        return ("No zone", "One zone", "Two zones", "Three zones")[len(zones)]
    if not shown.pneumothorax:
        return "No pneumothorax"
    return "Same side" if shown.pneumothorax == device else "Opposite side"


def right(sample: Sample) -> str:
    return str(sample.meta["options"]["ABCDEFG".index(sample.meta["option"])])


def test_the_answer_is_what_the_phantom_shows(shard: Shard, samples: list[Sample]) -> None:
    studies = {(study := shard.study(number)).key: study for number in range(len(shard))}
    assert {sample.meta["combination"] for sample in samples} == set(COMBINATIONS)
    for sample in samples:
        kind = sample.meta["combination"]
        assert right(sample) == expected(kind, Findings.from_tags(studies[sample.study].tags)), sample.id
        assert sample.meta["view"] != "LATERAL" and set(sample.meta["options"]) == set(COMBINATIONS[kind].options)


def test_every_answer_of_a_kind_is_right_equally_often(samples: list[Sample]) -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        counts[sample.meta["combination"]][right(sample)] += 1
    assert all(len(answers) >= 2 and len(set(answers.values())) == 1 for answers in counts.values())
    assert len(samples) > 100


def test_the_look_names_the_findings_before_it_combines_them(samples: list[Sample]) -> None:
    for sample in samples:
        look, judgement = pairs(sample.answer)[0].think.split("\n")
        assert look.startswith("I look at the image. ") and look.endswith(".") and "  " not in look
        assert look.count(". ") >= 2 or "in all six zones" in look
        assert "fit what I see" in judgement or "fits what I see" in judgement


def asked(kind: str, findings: str, labels: dict[str, int], *boxes: Box) -> str:
    """The answer to one kind of question about a made-up study among others, or an empty text if it is not asked."""
    normal = "The heart is normal. The lungs are clear. No effusion. No pneumothorax. A left pacemaker."
    absent = {"No Finding": 1, "Cardiomegaly": 0, "Pleural Effusion": 0, "Pneumothorax": 0, "Support Devices": 1}
    rows: list[tuple[str, dict[str, int], tuple[Box, ...]]] = [(findings, labels, boxes), (normal, absent, ())]
    views = [
        StudyView(Study("d", str(n), str(n), "train", text, labels=given), ((Image(f"i{n}", "PA", boxes=found), n),))
        for n, (text, given, found) in enumerate(rows)
    ]
    questions = combined(QuestionContext(views, Wording(), 7))
    return next((q.options[0].text for q in questions if q.what == kind and q.view is views[0]), "")


RIGHT_BOX, LEFT_BOX = Box("Pleural Effusion", 0.1, 0.6, 0.3, 0.8), Box("Pleural Effusion", 0.7, 0.5, 0.95, 0.9)


@pytest.mark.parametrize(
    ("findings", "boxes", "answer"),
    [
        ("Small left and large right pleural effusions.", (), "Right"),
        ("Moderate left pleural effusion and small right pleural effusion.", (), "Left"),
        ("A left effusion is seen.", (), "Left"),
        ("There is a pleural effusion.", (), ""),  # of an unknown side
        ("There is a pleural effusion.", (LEFT_BOX,), "Left"),
        ("There are pleural effusions.", (LEFT_BOX, RIGHT_BOX), "Left"),
        ("Bilateral pleural effusions.", (), ""),  # of unknown sizes
        ("Bilateral pleural effusions.", (LEFT_BOX, RIGHT_BOX), "Left"),
        ("Bilateral pleural effusions.", (RIGHT_BOX, Box("Pleural Effusion", 0.7, 0.6, 0.92, 0.8)), ""),  # too alike
        ("Left pleural effusion, possible right pleural effusion.", (), ""),
    ],
)
def test_sides_come_from_the_report_or_from_boxes(findings: str, boxes: tuple[Box, ...], answer: str) -> None:
    assert asked("larger_effusion", findings, {"Pleural Effusion": 1}, *boxes) == answer


@pytest.mark.parametrize(
    ("kind", "findings", "labels", "answer"),
    [
        ("device_side", "A right central line. Right pneumothorax.", {"Support Devices": 1, "Pneumothorax": 1}, "Same side"),
        ("device_side", "An endotracheal tube. Right pneumothorax.", {"Support Devices": 1, "Pneumothorax": 1}, ""),
        ("abnormal_zones", "Opacities in the right upper and left lower lobe.", {"Lung Opacity": 1}, "Two zones"),
        ("abnormal_zones", "There is an opacity.", {"Lung Opacity": 1}, ""),
        ("abnormal_zones", "Possible opacity in the right upper lobe.", {"Lung Opacity": -1}, ""),
        ("abnormal_zones", "The heart is enlarged.", {"Cardiomegaly": 1}, ""),  # of the lungs nothing is said
        ("heart_and_fluid", "The heart is enlarged. Small bilateral pleural effusions.",
         {"Cardiomegaly": 1, "Pleural Effusion": 1}, "Both"),
        ("heart_and_fluid", "The heart is enlarged.", {"Cardiomegaly": 1}, ""),
    ],
)  # fmt: skip
def test_what_is_not_known_is_not_asked(kind: str, findings: str, labels: dict[str, int], answer: Any) -> None:
    assert asked(kind, findings, labels) == answer
