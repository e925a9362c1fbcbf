"""Rewards of labels and boxes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.data.study import CHEXPERT_LABELS, Box
from diagcot.rewards import classification as labels
from diagcot.rewards import grounding as answers
from diagcot.rewards import registry, released
from diagcot.rewards.score import Reference
from diagcot.tasks.prompts import classification_answer, grounding_answer, reasoned
from diagcot.text.labels import chexpert
from diagcot.text.layout import first_answer


def read(output):
    return chexpert(first_answer(output))


EDEMA = frozenset({"Edema"})
BOTH = frozenset({"Edema", "Fracture"})
SETS = st.frozensets(st.sampled_from(sorted(labels.DIFFICULTY)), min_size=1)


def squash(value: float) -> float:
    return 0.7 * value + 0.3 / (1 + 2.718281828459045 ** (-10 * (value - 0.5)))


@pytest.mark.parametrize(
    ("predicted", "truth", "progress", "value"),
    [
        (EDEMA, EDEMA, 0, 1.0),
        (EDEMA, BOTH, 0, 0.9 * 0.5 + 0.1 * 1.2 / 3.2),
        (EDEMA, BOTH, 0.5, 0.8 * 0.5 + 0.2 * 1.2 / 3.2),
        (BOTH, EDEMA, 0, 0.85 * (1 - 0.3 * 0.5)),
        (BOTH, EDEMA, 1, 0.65 * (1 - 0.7 * 0.5)),
        (BOTH, frozenset({"Edema", "Pneumonia"}), 0, 0.6 / 3 + 0.4 * 1.2 / 4.7),
    ],
)
def test_agreement_by_hand(predicted, truth, progress, value):
    assert labels.agreement(predicted, truth, progress) == pytest.approx(squash(value))


@given(SETS, SETS, st.floats(0, 1))
def test_agreement_is_bounded_and_highest_when_exact(predicted, truth, progress):
    value = labels.agreement(predicted, truth, progress)
    assert 0 <= value <= labels.agreement(truth, truth, progress) <= 1
    assert (value == 0) == (not predicted & truth)


def test_as_released_progress_is_always_0():
    reward = registry.reward("classification", "released")
    output, reference = (
        [reasoned("x", classification_answer(["Edema"]))],
        [Reference(classification_answer(["Edema", "Fracture"]))],
    )
    assert reward(output, reference, 0.0) == reward(output, reference, 1.0)
    mended = registry.reward("classification", "curriculum")
    assert mended(output, reference, 1.0)[0]["overall"] < mended(output, reference, 0.0)[0]["overall"]


def test_the_trailing_comma_of_the_released_parser():
    sentence = "The label of this X-ray image is: Edema,"
    assert released.chexpert(sentence) == {"Edema", "Enlarged Cardiomediastinum"}
    assert read(sentence) == {"Edema"}


def test_no_finding_beside_a_finding():
    sentence = "The label of this X-ray image is: Edema, No Finding"
    assert released.chexpert(sentence) == {"No Finding"}
    assert read(sentence) == {"Edema"}


@given(st.lists(st.sampled_from(CHEXPERT_LABELS[1:]), unique=True))
def test_our_own_answers_are_parsed_back(names):
    expected = set(names) or {"No Finding"}
    assert read(reasoned("cardiomegaly?", classification_answer(names))) == expected
    assert released.chexpert(classification_answer(names)) == expected


def test_a_second_think_block_halves():
    (once,) = registry.reward("classification", "curriculum")(
        [reasoned("x", classification_answer(["Edema"]))], [Reference(classification_answer(["Edema"]))]
    )
    (twice,) = registry.reward("classification", "curriculum")(
        ["<think>y</think>" + reasoned("x", classification_answer(["Edema"]))],
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


def test_the_phantom_box_hacks_the_release_only():
    hack, false = reasoned("x", boxes(PHANTOM)), reasoned("x", boxes(LEFT))
    for mode in ("released", "graded"):
        assert grounded(mode, hack, boxes()) == pytest.approx(1.0)
        assert grounded(mode, false, boxes()) < 0.25
    assert grounded("matched", hack, boxes()) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("mean", "value"),
    [(1.0, 1.0), (0.95, 1.0), (0.8, 0.85), (0.6, 0.55), (0.4, 0.3), (0.2, 0.15), (0.05, 0.075), (0, 0.02)],
)
def test_the_broken_line_of_the_earlier_release(mean, value):
    assert answers._graded(mean, mean, 1) == pytest.approx(min(1, value + 0.05 * (mean > 0.8)))
    assert answers._graded(mean, 1.0, 2) == pytest.approx(min(1, 0.7 * value + 0.3 + 0.05 * (mean > 0.8)))


def in_pixels(answer, truth="[100, 100, 300, 400]"):
    return registry.reward("grounding_pixels", "matched")([answer], [Reference(truth)])[0]["overall"]


def test_boxes_in_pixels():
    assert in_pixels(reasoned("x", "[100, 100, 300, 400]")) == pytest.approx(1)
    assert in_pixels(reasoned("x", "[100,100,300,250]")) == pytest.approx(0.2 + 0.8 / 2)
    assert in_pixels(reasoned("x", "[100, 100, 300, 400] [0, 0, 9, 9]")) == pytest.approx(0.2 + 0.8 / 2)
    assert in_pixels(reasoned("x", "[300, 400, 100, 100]")) == pytest.approx(0.1)
    assert in_pixels(reasoned("x", "nothing")) == in_pixels("") == 0
    with pytest.raises(ValueError, match="no box"):
        in_pixels("", "Edema")


ATTACKS = ["", "<think></think><answer></answer>", "<box>" * 90, "<answer>" * 90, reasoned("x", "x " * 3000)]


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_earns_more_than_a_format(attack):
    assert grounded("matched", attack, boxes(LEFT)) <= 0.2
    assert in_pixels(attack) <= 0.2
    (score,) = registry.reward("classification", "curriculum")([attack], [Reference(classification_answer(["Edema"]))])
    assert 0 <= score["overall"] <= 0.1


def test_all_boxes_and_all_labels_do_not_pay():
    grid = [Box("", x / 4, y / 4, (x + 1) / 4, (y + 1) / 4) for x in range(4) for y in range(4)]
    assert grounded("matched", reasoned("x", boxes(*grid)), boxes(LEFT)) < 0.3
    every, truth = reasoned("x", classification_answer(CHEXPERT_LABELS[1:])), classification_answer(["Edema"])
    reward = registry.reward("classification", "curriculum")
    for progress in (0.0, 1.0):
        (all_of_them,) = reward([every], [Reference(truth)], progress)
        (one_wrong,) = reward(
            [reasoned("x", classification_answer(["Edema", "Pneumonia"]))], [Reference(truth)], progress
        )
        assert all_of_them["overall"] < one_wrong["overall"] < 1


def test_as_released_the_format_is_never_earned():
    (score,) = registry.reward("classification", "released")(
        [reasoned("x", classification_answer(["Edema"]))], [Reference(classification_answer(["Edema"]))]
    )
    assert score["format"] == 0 and score["overall"] == pytest.approx(0.9 * squash(1.0))


@pytest.mark.parametrize("mode", ["released", "matched"])
def test_boxes(mode):
    score = lambda answer, truth: grounded(mode, reasoned("I see", answer), truth)  # noqa: E731
    assert score(boxes(LEFT, RIGHT), boxes(LEFT, RIGHT)) == 1
    assert score(boxes(RIGHT, LEFT), boxes(LEFT, RIGHT)) == pytest.approx(1)
    assert score(boxes(), boxes()) == 1
    assert score(boxes(RIGHT), boxes()) == pytest.approx(0.2)
    assert score(boxes(), boxes(LEFT)) == pytest.approx(0.2)
    assert score("I cannot tell", boxes()) == 0
    assert grounded(mode, boxes(LEFT) + " indeed", boxes(LEFT)) == pytest.approx(0.8)  # no tags, no format


def test_misses_and_false_alarms_cost_only_in_the_matched_mode():
    one, two = reasoned("x", boxes(NEAR)), boxes(LEFT, RIGHT)
    assert grounded("released", one, two) == 1  # the mean over matched pairs overlooks the miss
    assert grounded("matched", one, two) == pytest.approx(0.2 + 0.8 * 0.75 / 2)
    many = reasoned("x", boxes(NEAR, *[PHANTOM] * 3))
    assert grounded("matched", many, boxes(LEFT)) == pytest.approx(0.2 + 0.8 * 0.75 / 4)


def test_malformed_boxes_earn_half_the_format_and_no_iou():
    output = reasoned("x", "<box>(1,2),(3</box>")
    for mode in ("released", "matched"):
        assert grounded(mode, output, boxes(LEFT)) == pytest.approx(0.1)
        assert grounded(mode, output, boxes()) <= 0.1 + 1e-9
