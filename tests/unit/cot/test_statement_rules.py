"""Rules about what a trace states: a true trace of every phantom is kept, and each untruth breaks its own rule."""

from random import Random
from typing import Any

import pytest

from diagcot.cot.filtration import rules
from diagcot.cot.settings import FilterSettings
from diagcot.cot.synthetic.conversations import Material, Reading
from diagcot.data.phantom.patients import visits
from tests.unit.cot.cot_traces import closed, opened, trace

FINDINGS = (
    "the heart is mildly enlarged. there is an opacity in the right mid zone. there is a small left pleural effusion."
    " there is no pneumothorax. a left pacemaker is in place"
)
IMPRESSION = "mild cardiomegaly, right mid zone opacity and small left pleural effusion"
REFERENCE = f"findings : {FINDINGS} . impression : {IMPRESSION} ."
THOUGHT = f"I look at the heart, the lungs and the pleura: {FINDINGS}. So this means {IMPRESSION}."


def told(thought: str = THOUGHT, findings: str = FINDINGS, impression: str = IMPRESSION, **values: Any) -> Any:
    """A trace of a phantom's report."""
    answer = f"findings : {findings} . impression : {impression} ."
    given = {"reference": REFERENCE, "guide": REFERENCE, "conclusion": answer, "reasoning": thought, "answer": answer}
    return trace(**(given | values))


def broken(bad) -> str | None:
    found = rules.fault(bad, FilterSettings())
    return found.rule if found else None


def test_a_true_trace_of_every_phantom_is_kept():
    for visit in visits(400, seed=3):
        reading = Reading.of(*visit.findings.report())
        true = told(
            reasoning=reading.reasoning, answer=reading.answer, reference=reading.answer, conclusion=reading.answer
        )
        assert broken(true) in (None, "reasoning_too_short"), true["reasoning"]


def test_an_answer_of_another_phantom_is_dropped():
    readings = [Reading.of(*visit.findings.report()) for visit in visits(400, seed=4)]
    random = Random(0)
    for _ in range(400):
        one, other = random.sample(readings, 2)
        if one.answer == other.answer:
            continue
        answer, reference = other.answer, one.answer
        assert broken(told(reasoning=other.reasoning, answer=answer, reference=reference, conclusion=answer))
        assert broken(told(reasoning=other.reasoning, answer=reference, reference=reference, conclusion=reference))
        assert broken(told(reasoning=one.reasoning, answer=answer, reference=reference, conclusion=reference))


def test_a_corrected_reading_is_kept_and_a_wrong_one_is_dropped():
    readings = [Reading.of(*visit.findings.report()) for visit in visits(300, seed=5)]
    random = Random(0)
    for number in range(300):
        right, other = random.sample(readings, 2)
        if not right.differences(other):
            continue
        material = Material(f"s{number}", right, random.choice([other, right.with_error(other)]))
        if not right.differences(material.wrong):
            continue
        given = {"answer": right.answer, "reference": right.answer, "conclusion": right.text, "guide": right.answer}
        assert broken(told(material.reasoning, **given)) is None, material.reasoning
        assert broken(told(material.wrong.reasoning, **given)), material.wrong.reasoning


@pytest.mark.parametrize(
    "good",
    [
        told(),
        told(forced=True, verified=False, conclusion=""),
        told("At first I thought of a right effusion. Wait, the right angle is sharp. " + THOUGHT),
        told(THOUGHT + " Is there edema? I look for septal lines and see none."),
        told(THOUGHT + " I see no fracture."),  # the reference does not speak of it
        told(THOUGHT.replace("a small left pleural effusion.", "fluid on the left, that is a left effusion, a small one.")),
        told(reference="findings : there is an opacity . pleural effusion . the heart is enlarged . pacemaker in place ."
             " impression : opacity, effusion and cardiomegaly ."),
    ],
)  # fmt: skip
def test_good_traces_keep_all_rules(good):
    assert rules.fault(good, FilterSettings()) is None


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        ("reasoning_wrong_label", told(THOUGHT + " There is a right pneumothorax.")),
        ("reasoning_wrong_label", told(THOUGHT + " The lungs are clear.")),
        ("reasoning_wrong_label", told(THOUGHT + " It may be edema.")),
        ("reasoning_wrong_side", told(THOUGHT.replace("small left pleural", "small right pleural"))),
        ("reasoning_wrong_side", told("There is a right effusion. " + THOUGHT)),
        ("reasoning_wrong_zone", told(THOUGHT.replace("mid zone", "upper zone"))),
        ("reasoning_wrong_severity", told(THOUGHT.replace("small", "large"))),
        ("reasoning_wrong_device", told(THOUGHT.replace("left pacemaker", "right central line"))),
        ("reasoning_missing_label", told(THOUGHT.replace("opacity", "shadow"))),
        ("reasoning_missing_device", told(THOUGHT.replace("a left pacemaker is in place", "no more is seen"))),
        ("reasoning_missing_side", told(THOUGHT.replace("small left pleural", "small pleural"))),
        ("findings_wrong_side", told(findings=FINDINGS.replace("small left", "small right"))),
        ("findings_wrong_zone", told(findings=FINDINGS.replace("mid zone", "lower zone"))),
        ("findings_wrong_severity", told(findings=FINDINGS.replace("mildly", "severely"))),
        ("findings_wrong_device", told(findings=FINDINGS.replace("left pacemaker", "right central line"))),
        ("findings_missing_label", told(findings=FINDINGS.replace("there is an opacity in the right mid zone.", ""))),
        ("impression_wrong_side", told(impression=IMPRESSION.replace("small left", "small right"))),
        ("impression_wrong_severity", told(impression=IMPRESSION.replace("mild", "severe"))),
        ("impression_missing_label", told(impression=IMPRESSION.replace("mild cardiomegaly, ", ""))),
        (
            "findings_contradict_impression",
            told(
                THOUGHT.replace("left pleural", "pleural"),
                findings=FINDINGS.replace("small left", "small right"),
                reference=REFERENCE.replace("small left", "small"),
            ),
        ),
        (
            "reasoning_contradicts_answer",
            told(
                findings=FINDINGS.replace("small left", "small right"),
                impression=IMPRESSION.replace("small left", "small right"),
                reference=REFERENCE.replace("small left", "small"),
            ),
        ),
        ("answer_differs_from_conclusion", told(conclusion="findings : large left pneumothorax .")),
        ("answer_differs_from_conclusion", told(conclusion=REFERENCE.replace("small left", "small right"))),
        ("reasoning_wrong_side", told(THOUGHT.replace("small left", "small right"), forced=True, verified=False)),
        ("json_remains", told(impression=IMPRESSION + ": :{")),
        ("json_remains", told(THOUGHT + ' score":1. the false.')),
        ("json_remains", told(THOUGHT + " the false.")),
        ("non_word", told(THOUGHT + " There is pneumothothorax.")),
        ("non_word", told(THOUGHT + " I see xqrtv.")),
    ],
)  # fmt: skip
def test_each_untruth_breaks_its_own_rule(rule, bad):
    assert broken(bad) == rule


def test_a_recipe_may_compare_less():
    bad = told(THOUGHT.replace("small left pleural", "small right pleural"))
    assert broken(bad) == "reasoning_wrong_side"
    assert rules.fault(bad, FilterSettings(compare=("label", "zone"))) is None
    assert rules.fault(bad, FilterSettings(compare=())) is None


def test_reasoning_about_labels_and_boxes():
    labels = "The label of this X-ray image is: Cardiomegaly, Pleural Effusion, Lung Opacity"
    values: dict[str, Any] = {"task": "classification", "answer": labels, "reference": labels, "guide": REFERENCE}
    thought = "The heart is mildly enlarged. I see a small left effusion, and an opacity in the right mid zone."
    assert broken(told(thought, **values)) is None
    assert broken(told(thought.replace("left", "right"), **values)) == "reasoning_wrong_side"
    assert broken(told(thought.replace("an opacity", "lungs"), **values)) == "reasoning_missing_label"
    assert broken(told(thought + " There is edema.", **values)) == "reasoning_wrong_label"
    doubt = values | {"meta": {"labels": {"Edema": -1}}}
    assert broken(told(thought + " There is edema.", **doubt)) is None

    box = "The detected pleural effusion regions are: <box>(700,500),(900,900)</box>"  # on the image's right
    values = {"task": "grounding", "answer": box, "reference": box, "guide": box, "meta": {"label": "Pleural Effusion"}}
    thought = "The angle is blunted, and there is a {} pleural effusion, so I draw one box there."
    assert broken(told(thought.format("left"), **values)) is None
    assert broken(told(thought.format("right"), **values)) == "reasoning_wrong_side"
    none = "No pleural effusion regions detected."
    values |= {"answer": none, "reference": none, "guide": none}
    assert broken(told("Both angles are sharp, so there is no pleural effusion, and no box.", **values)) is None
    assert broken(told(thought.format("left"), **values)) == "reasoning_wrong_label"


def test_reasoning_about_questions():
    assert broken(closed()) is None and broken(opened()) is None
    (_, listed), *others = opened()["pairs"]
    untrue = [["there are fine lines, and a right pneumothorax", listed], *others]
    assert broken(opened(pairs=untrue)) == "reasoning_wrong_label"
