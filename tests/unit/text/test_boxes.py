"""Boxes in text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.data.study import Box
from diagcot.rewards import registry
from diagcot.rewards.score import Reference
from diagcot.tasks.prompts import grounding_answer
from diagcot.text.boxes import claimed, claimed_in_any_style, is_well_formed, parse, parse_pixels


def test_fractions_and_thousandths():
    assert parse("<box>(0.1,0.2),(0.3,1.0)</box>") == [Box("", 0.1, 0.2, 0.3, 1.0)]
    assert parse("<box>( 100, 200 ) , (300,2000)</box>") == [Box("", 0.1, 0.2, 0.3, 1.0)]


def test_what_an_answer_claims():
    assert claimed("No edema regions detected.") == [] and claimed("I cannot tell") is None
    (broken,) = claimed("<box>(1,2),(3</box>")
    assert not is_well_formed(broken)


ONE, TWO = Box("", 0.1, 0.2, 0.3, 0.4), Box("", 0.5, 0.6, 0.7, 0.8)
OTHER_STYLES = {
    "<|object_ref_start|>edema<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>": [ONE],
    "<|box_start|>(100,200),(300,400)<|box_end|> <|box_start|>( 500 , 600 ) (700,800)<|box_end|>": [ONE, TWO],
    '```json\n[\n\t{"bbox_2d": [100, 200, 300, 400], "label": "edema"},\n\t{"bbox_2d": [500,600,700,800]}\n]\n```': [
        ONE,
        TWO,
    ],
    "The edema is at (100,200),(300,400).": [ONE],
    "<box>[100,200,300,400]</box>, <box>[500, 600, 700, 800]</box>": [ONE, TWO],
    "<box>(.1,.2),(.3,.4)</box>": [ONE],
    "<BOX>[.1, .2, .3, .4]</BOX> or (0.5, 0.6) (0.7, 0.8)": [ONE, TWO],
}


@pytest.mark.parametrize("text", OTHER_STYLES)
def test_boxes_in_the_styles_of_base_models_are_read_in_evaluation_alone(text):
    assert claimed_in_any_style(text) == (OTHER_STYLES[text], True)
    assert not any(map(is_well_formed, claimed(text) or ()))
    gold = Reference(grounding_answer("edema", OTHER_STYLES[text]))
    for mode in ("matched", "overlap_f1"):
        reward = registry.reward("grounding", mode, [gold])
        other, strict = reward(
            [f"<think>t</think>\n<answer>{said}</answer>" for said in (text, gold.answer)], [gold] * 2
        )
        assert other["overall"] < strict["overall"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(1,2)",
        "at (300,400),(100,200)",
        "[100,200,300,400]",
        "<box>(1,2),(3</box>",
        "<box>[1,2,3]</box>",
        "(1,2,3,4)",
    ],
)
def test_what_is_no_box_in_any_style_is_read_as_before(text):
    assert claimed_in_any_style(text) == (claimed(text), False)


PIECES = st.sampled_from(
    [
        *OTHER_STYLES,
        "<box>(1,2),(300,400)</box>",
        "<box>",
        "</box>",
        "(1,2)",
        ",",
        " ",
        ".",
        "No edema regions detected.",
        "\n",
    ]
)
TEXT = st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=6).map("".join))
CORNER = st.integers(0, 999)
BOX = st.tuples(CORNER, CORNER, CORNER, CORNER).map(
    lambda c: Box(
        "", min(c[0], c[2]) / 1000, min(c[1], c[3]) / 1000, (max(c[0], c[2]) + 1) / 1000, (max(c[1], c[3]) + 1) / 1000
    )
)


@given(st.lists(BOX, max_size=4), st.sampled_from(["default", "diagcot"]), TEXT, TEXT)
def test_a_strict_reply_is_never_read_otherwise(truth, layout, before, after):
    """A reply in the layout that training asks for, whatever is around it; and any text that the strict reader can read."""
    reply = grounding_answer("lung opacity", truth, layout)
    assert claimed_in_any_style(reply) == (claimed(reply), False)
    if truth:
        assert claimed_in_any_style(before + reply + after) == (claimed(before + reply + after), False)
    strict = claimed(before + after)
    if strict == [] or any(map(is_well_formed, strict or ())):
        assert claimed_in_any_style(before + after) == (strict, False)


def test_boxes_in_pixels():
    assert parse_pixels("at [10, 20, 30.5, 40]") == [Box("", 10, 20, 30.5, 40)] and parse_pixels("[1, 2, 3]") == []
    assert len(parse_pixels("[1, 2, 3, 4] or [-5, 6, 7, 8]")) == 2


@pytest.mark.parametrize("read", [claimed, claimed_in_any_style])
@pytest.mark.parametrize("start", ["<box>(1,2)", "(1,2)", "(1,2", "<box>[", '"bbox_2d":'])
def test_blanks_after_half_a_box_are_read_in_linear_time(read, start):
    began = time.process_time()
    read(start + " " * 200_000)
    assert time.process_time() - began < 1.0  # a minute where the time grows with the square
