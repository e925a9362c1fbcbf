"""Boxes of generated text and their matched IoU."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.data.study import Box
from diagcot.metrics import boxes
from diagcot.metrics.boxes import soft_f1
from diagcot.tasks.prompts import grounding_answer
from diagcot.text.boxes import claimed, parse, says_none

CORNER = st.integers(0, 999)


@st.composite
def box(draw):
    x1, y1 = draw(CORNER), draw(CORNER)
    return Box("", x1 / 1000, y1 / 1000, draw(st.integers(x1 + 1, 1000)) / 1000, draw(st.integers(y1 + 1, 1000)) / 1000)


def score(answer, truth):
    return boxes.matched_iou(claimed(answer), truth)


BOXES = st.lists(box(), max_size=5)


@given(BOXES)
def test_the_answer_layout_is_read_back(truth):
    text = grounding_answer("lung opacity", truth)
    assert parse(text) == truth
    assert says_none(text) == (not truth)
    assert score(text, truth) == pytest.approx(1)


@given(BOXES, BOXES)
def test_matched_iou_is_symmetric_bounded_and_full_only_for_equals(ours, theirs):
    value = boxes.matched_iou(ours, theirs)
    assert 0 <= value <= 1
    assert value == pytest.approx(boxes.matched_iou(theirs, ours))
    assert boxes.matched_iou(ours, ours[::-1]) == pytest.approx(1)


@given(BOXES.filter(bool), box())
def test_a_false_alarm_never_helps(truth, extra):
    assert boxes.matched_iou([*truth, extra], truth) == pytest.approx(len(truth) / (len(truth) + 1))


@given(st.text())
def test_any_text_is_read(text):
    assert 0 <= score(text, [Box("", 0.1, 0.1, 0.5, 0.5)]) <= 1


def test_known_overlap():
    half = boxes.iou([Box("", 0, 0, 0.2, 0.1)], [Box("", 0.1, 0, 0.2, 0.1)])
    assert half[0, 0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the lungs",
        "<box>(0,0),(100",
        "<box>(400,400),(100,100)</box>",
        "<box>1,2</box> none seen",
        "No <box>",
    ],
)
def test_an_unreadable_answer_scores_nothing(text):
    assert score(text, []) == 0
    assert score(text, [Box("", 0, 0, 1, 1)]) == 0


def test_a_phantom_box_earns_nothing_on_a_negative_film():
    assert score("<box>(0,0),(100,100)</box>", []) == 0  # full marks in the released reward


@pytest.mark.parametrize(
    ("ours", "theirs", "published"),
    [
        ([(0, 0, 1, 1)], [(0, 0, 1, 1)], 1.0),
        ([(0, 0, 0.5, 1)], [(0, 0, 1, 1)], 0.666667),
        ([(0, 0, 0.5, 1), (0.6, 0.6, 0.7, 0.7)], [(0, 0, 0.5, 1)], 0.666667),
        (
            [(0, 0, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9)],
            [(0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1), (0.1, 0.6, 0.3, 0.8)],
            0.598131,
        ),
        ([(0.1, 0.1, 0.2, 0.2)], [(0.5, 0.5, 0.6, 0.6)], 0.0),
        ([], [(0.5, 0.5, 0.6, 0.6)], 0.0),
        ([(0.1, 0.1, 0.2, 0.2)], [], 0.0),
    ],
)
def test_f1_whose_hits_count_by_their_iou_is_the_published_one(ours, theirs, published):
    """Numbers of soft_f1_hungarian in uzh-dqbm-cmi/RadVLM-GRPO, verl/custom_rewards/grounding_reward.py."""
    assert soft_f1([Box("", *box) for box in ours], [Box("", *box) for box in theirs]) == pytest.approx(
        published, abs=1e-6
    )


def test_f1_of_boxes_without_any():
    assert soft_f1([], []) == 1.0 and soft_f1(None, []) == 0.0  # none claimed, and nothing readable
