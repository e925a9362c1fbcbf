"""The metric of the reasoning: true reasoning earns all, and no reply gains by saying nothing, everything, or the same again."""

from random import Random

import pytest

from diagcot.cot.synthetic.conversations import Material, Reading
from diagcot.data.phantom.patients import visits
from diagcot.data.study import CHEXPERT_LABELS
from diagcot.tasks.prompts import reasoned
from diagcot.text.reasoning import NOTHING, of_output

READINGS = [Reading.of(*visit.findings.report()) for visit in visits(300, seed=8)]
REFERENCE = (
    "findings : the heart is mildly enlarged. there is a small left pleural effusion. there is no pneumothorax ."
    " impression : mild cardiomegaly and small left pleural effusion ."
)
HONEST = "The heart is mildly enlarged, and there is a small left pleural effusion. No pneumothorax."
EVERYTHING = " ".join(f"There is {side} {name.lower()}." for name in CHEXPERT_LABELS for side in ("left", "right"))
DENIED = " ".join(f"There is no {name.lower()}." for name in CHEXPERT_LABELS[1:])


def of(think: str, answer: str = REFERENCE, reference: str = REFERENCE):
    found = of_output("report", reasoned(think, answer), reference, {})
    assert found is not None
    return found


def test_a_true_reasoning_earns_all_and_anothers_less():
    random = Random(0)
    for number in range(200):
        right, other = random.sample(READINGS, 2)
        found = of(right.reasoning, right.answer, right.answer)
        assert found.overall == found.factuality == 1, right.reasoning
        if right.differences(other):
            corrected = Material(f"s{number}", right, other).reasoning
            assert of(corrected, right.answer, right.answer).overall == 1, corrected
            assert of(other.reasoning, right.answer, right.answer).overall < 1


@pytest.mark.parametrize(
    "think",
    [
        "",
        "...",
        "I look at the image and think about it.",
        "lung heart pleura left right",
        "Is there an effusion? Is there cardiomegaly?",
        "The heart is normal in size. The lungs are clear. There is no pleural effusion or pneumothorax.",
        EVERYTHING,
        DENIED,
        "There is a right pleural effusion.",
        "<box>(1,1),(2,2)</box>",
        "Le coeur est grand.",
    ],
)
def test_no_trick_beats_an_honest_part(think):
    part = of("There is a left pleural effusion.")
    assert of(think).overall < part.overall < of(HONEST).overall == 1


def test_what_states_nothing_earns_nothing():
    for think in ("", "I look at the image.", "Is there an effusion?"):
        assert of(think) == NOTHING
    assert of_output("report", REFERENCE, REFERENCE, {}) == NOTHING  # no think at all
    assert of_output("report", reasoned(HONEST, REFERENCE), "nothing of note", {}) is None


def test_repeating_gains_nothing():
    partly = "There is a left pleural effusion. There is a fracture."
    again = partly + " There is a left pleural effusion. A small left pleural effusion. A pleural effusion." * 20
    assert of(again) == of(partly)
    assert of(HONEST + " No pneumothorax." * 20) == of(HONEST)
    assert of("There is a fracture. " + DENIED).factuality < 0.5


def test_the_answer_has_to_follow():
    other = "findings : there is a right pneumothorax . impression : right pneumothorax ."
    assert of(HONEST).effectiveness == 1
    assert of(HONEST, other).effectiveness == 0
    assert of(HONEST, REFERENCE.replace("left", "right")).effectiveness == 0.5  # the heart follows, the fluid does not
    assert of(HONEST, "").effectiveness == 0


def test_the_other_tasks():
    labels = "The label of this X-ray image is: Cardiomegaly, Support Devices"
    found = of_output(
        "classification", reasoned("The heart is enlarged, and a left pacemaker is in place.", labels), labels, {}
    )
    assert found is not None and found.overall == 1
    box = "The detected pleural effusion regions are: <box>(700,500),(900,900)</box>"
    about = {"label": "Pleural Effusion"}
    left, right = (
        of_output("grounding", reasoned(f"There is a {side} pleural effusion.", box), box, about)
        for side in ("left", "right")
    )
    assert left is not None and right is not None and left.overall == 1 and right.overall == 0
    steps = "\n".join([reasoned("fine lines, so there is edema", "Edema"), reasoned("in all it is edema", "Edema")])
    found = of_output("open", steps, "Edema", {})
    assert found is not None and found.overall == 1
