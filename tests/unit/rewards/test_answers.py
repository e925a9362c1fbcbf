"""Rewards of labels and boxes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.data.study import CHEXPERT_LABELS, Box
from diagcot.rewards import classification as labels
from diagcot.rewards import registry
from diagcot.rewards.score import Reference
from diagcot.tasks.prompts import classification_answer, grounding_answer, reasoned
from diagcot.text.labels import chexpert
from diagcot.text.layout import first_answer


def read(output):
    return chexpert(first_answer(output))


WHY = "the left base is denser than the right"
EDEMA = frozenset({"Edema"})
BOTH = frozenset({"Edema", "Fracture"})
ALL = frozenset(CHEXPERT_LABELS[1:])
SETS = st.frozensets(st.sampled_from(sorted(ALL)), min_size=1)


@pytest.mark.parametrize(
    ("predicted", "truth", "progress", "value"),
    [
        (EDEMA, EDEMA, 0, 1.0),
        (EDEMA, BOTH, 0, 2 * 1.2 / (1.2 + 3.2)),
        (EDEMA, BOTH, 1, (2 * 1.2 / (1.2 + 3.2)) ** 2),
        (BOTH, EDEMA, 0, 2 * 1.2 / (1.2 + 3.2) * 11 / 12),
        (BOTH, frozenset({"Edema", "Pneumonia"}), 0, 2 * 1.2 / (3.2 + 2.7) * 10 / 11),
        (ALL, BOTH, 0, 0.0),
        (frozenset(), BOTH, 0, 0.0),
    ],
)
def test_agreement_by_hand(predicted, truth, progress, value):
    assert labels.agreement(predicted, truth, progress) == pytest.approx(value)


@given(SETS, SETS, st.floats(0, 1))
def test_agreement_is_bounded_and_full_only_when_exact(predicted, truth, progress):
    value = labels.agreement(predicted, truth, progress)
    assert 0 <= value <= labels.agreement(truth, truth, progress) == 1
    assert (value > 1 - 1e-9) == (predicted == truth)
    assert (value == 0) == (not predicted & truth or (truth < ALL and ALL - truth <= predicted))


def test_training_progress_reaches_the_curriculum():
    reward = registry.reward("classification", "curriculum")
    output, reference = reasoned(WHY, classification_answer(["Edema"])), Reference(classification_answer(sorted(BOTH)))
    early, late = (reward([output], [reference], progress)[0] for progress in (0.0, 1.0))
    assert late["labels"] == pytest.approx(early["labels"] ** 2)


@pytest.mark.parametrize("sentence", ["Edema,", "- **Edema**", "Edema, No Finding", "1. pulmonary edema"])
def test_labels_are_read_as_evaluation_reads_them(sentence):
    assert read(f"The label of this X-ray image is: {sentence}") == {"Edema"}


@given(st.lists(st.sampled_from(CHEXPERT_LABELS[1:]), unique=True))
def test_our_own_answers_are_parsed_back(names):
    assert read(reasoned("cardiomegaly?", classification_answer(names))) == (set(names) or {"No Finding"})


def test_an_item_said_twice_costs():
    truth, reward = Reference(classification_answer(["Edema"])), registry.reward("classification", "curriculum")
    once, twice = (reward([reasoned(WHY, classification_answer(["Edema"] * n))], [truth])[0]["overall"] for n in (1, 2))
    assert twice == pytest.approx(once / 2)


def test_a_second_think_block_halves():
    (once,) = registry.reward("classification", "curriculum")(
        [reasoned(WHY, classification_answer(["Edema"]))], [Reference(classification_answer(["Edema"]))]
    )
    (twice,) = registry.reward("classification", "curriculum")(
        ["<think>y</think>" + reasoned(WHY, classification_answer(["Edema"]))],
        [Reference(classification_answer(["Edema"]))],
    )
    assert twice["repetition"] == 0.5 and twice["overall"] < once["overall"] / 2 + 1e-9


LEFT, RIGHT = Box("", 0.1, 0.1, 0.4, 0.5), Box("", 0.6, 0.1, 0.9, 0.5)
NEAR = Box("", 0.1, 0.1, 0.4, 0.4)  # IoU 0.75 with LEFT
PHANTOM = Box("", 0.0, 0.0, 0.1, 0.1)


def boxes(*found: Box) -> str:
    return grounding_answer("lung opacity", found)


def grounded(mode, output, truth):
    return registry.reward("grounding", mode)([output], [Reference(truth)])[0]["overall"]


def test_a_box_in_the_corner_of_a_normal_image_earns_its_format_alone():
    assert grounded("matched", reasoned(WHY, boxes(PHANTOM)), boxes()) == pytest.approx(0.2)


def in_pixels(answer, truth="[100, 100, 300, 400]"):
    return registry.reward("grounding_pixels", "matched")([answer], [Reference(truth)])[0]["overall"]


def test_boxes_in_pixels():
    assert in_pixels(reasoned(WHY, "[100, 100, 300, 400]")) == pytest.approx(1)
    assert in_pixels(reasoned(WHY, "[100,100,300,250]")) == pytest.approx(0.2 + 0.8 / 2)
    assert in_pixels(reasoned(WHY, "[100, 100, 300, 400] [0, 0, 9, 9]")) == pytest.approx(0.2 + 0.8 / 2)
    assert in_pixels(reasoned(WHY, "[300, 400, 100, 100]")) == pytest.approx(0.1)
    assert in_pixels(reasoned(WHY, "nothing")) == in_pixels("") == 0
    with pytest.raises(ValueError, match="no box"):
        in_pixels("", "Edema")


ATTACKS = ["", "<think></think><answer></answer>", "<box>" * 90, "<answer>" * 90, reasoned(WHY, "x " * 3000)]


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_earns_more_than_a_format(attack):
    assert grounded("matched", attack, boxes(LEFT)) <= 0.2
    assert in_pixels(attack) <= 0.2
    (score,) = registry.reward("classification", "curriculum")([attack], [Reference(classification_answer(["Edema"]))])
    assert 0 <= score["overall"] <= 0.1


def test_all_boxes_and_all_labels_do_not_pay():
    grid = [Box("", x / 4, y / 4, (x + 1) / 4, (y + 1) / 4) for x in range(4) for y in range(4)]
    assert grounded("matched", reasoned(WHY, boxes(*grid)), boxes(LEFT)) < 0.3
    every, truth = reasoned(WHY, classification_answer(CHEXPERT_LABELS[1:])), classification_answer(["Edema"])
    reward = registry.reward("classification", "curriculum")
    for progress in (0.0, 1.0):
        (all_of_them,) = reward([every], [Reference(truth)], progress)
        (one_wrong,) = reward(
            [reasoned(WHY, classification_answer(["Edema", "Pneumonia"]))], [Reference(truth)], progress
        )
        assert all_of_them["overall"] < one_wrong["overall"] < 1


def test_boxes():
    def score(answer, truth):
        return grounded("matched", reasoned(WHY, answer), truth)

    assert score(boxes(LEFT, RIGHT), boxes(RIGHT, LEFT)) == pytest.approx(1)
    assert score(boxes(), boxes()) == pytest.approx(1)
    assert score(boxes(), boxes(LEFT)) == pytest.approx(0.2)
    assert score("I cannot tell", boxes()) == 0
    assert grounded("matched", boxes(LEFT) + " indeed", boxes(LEFT)) == pytest.approx(0.8)  # no tags, no format
    assert grounded("matched", reasoned(".", boxes(LEFT)), boxes(LEFT)) == pytest.approx(0.8)  # no reasoning


def test_misses_and_false_alarms_cost():
    one, two = reasoned(WHY, boxes(NEAR)), boxes(LEFT, RIGHT)
    assert grounded("matched", one, two) == pytest.approx(0.2 + 0.8 * 0.75 / 2)
    many = reasoned(WHY, boxes(NEAR, *[PHANTOM] * 3))
    assert grounded("matched", many, boxes(LEFT)) == pytest.approx(0.2 + 0.8 * 0.75 / 4)


def test_malformed_boxes_earn_half_the_format_and_no_iou():
    for truth in (boxes(LEFT), boxes()):
        assert grounded("matched", reasoned(WHY, "<box>(1,2),(3</box>"), truth) == pytest.approx(0.1)
