"""Rewards of labels and boxes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.data.prompts import classification_answer, grounding_answer, reasoned
from diagcot.data.study import CHEXPERT_LABELS, Box
from diagcot.rewards import classification as labels
from diagcot.rewards import registry
from diagcot.rewards.score import Reference

EDEMA = frozenset({"edema"})
BOTH = frozenset({"edema", "fracture"})
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
        (BOTH, frozenset({"edema", "pneumonia"}), 0, 0.6 / 3 + 0.4 * 1.2 / 4.7),
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
    assert labels.parse_as_released(sentence) == {"edema", "enlarged cardiomediastinum"}
    assert labels.parse(sentence) == {"edema"}


def test_no_finding_beside_a_finding():
    sentence = "The label of this X-ray image is: Edema, No Finding"
    assert labels.parse_as_released(sentence) == {"no finding"}
    assert labels.parse(sentence) == {"edema"}


@given(st.lists(st.sampled_from(CHEXPERT_LABELS[1:]), unique=True))
def test_our_own_answers_are_parsed_back(names):
    expected = {name.lower() for name in names} or {"no finding"}
    assert labels.parse(reasoned("cardiomegaly?", classification_answer(names))) == expected
    assert labels.parse_as_released(classification_answer(names)) == expected


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


@pytest.mark.parametrize("mode", ["released", "matched"])
def test_boxes(mode):
    score = lambda answer, truth: grounded(mode, reasoned("I see", answer), truth)  # noqa: E731
    assert score(boxes(LEFT, RIGHT), boxes(LEFT, RIGHT)) == 1
    assert score(boxes(RIGHT, LEFT), boxes(LEFT, RIGHT)) == pytest.approx(1)
    assert score(boxes(), boxes()) == 1
    assert score(boxes(PHANTOM), boxes()) == pytest.approx(0.2)  # the phantom box of the release earned 1
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
