"""The report reward: the released constants, and what the clinical mode mends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.data.prompts import reasoned
from diagcot.rewards import layout, meteor, registry
from diagcot.rewards.score import Reference

TRUTH = (
    "findings : the heart is enlarged . there is a small left pleural effusion . impression : large heart , effusion ."
)
OTHER = "findings : the lungs are clear . the heart is of normal size . impression : no acute disease ."
REFERENCE = Reference(TRUTH)
RELEASED = registry.reward("report", "released")


def clinical():
    return registry.reward("report", "clinical", [REFERENCE, Reference(OTHER)])


def overall(reward, output, truth=TRUTH):
    return reward([output], [Reference(truth)])[0]["overall"]


def test_a_perfect_report_earns_0_91_as_released():
    assert overall(RELEASED, reasoned("I look at the heart first", TRUTH)) == pytest.approx(0.91, abs=1e-6)


def test_cider_of_a_single_pair_is_dead_as_released():
    assert RELEASED([reasoned("well", TRUTH)], [REFERENCE])[0]["cider"] == 0


def test_no_answer_earns_the_floor_as_released():
    (score,) = RELEASED([TRUTH], [REFERENCE])
    assert score["overall"] == 0.1 and score["format"] == 0


def test_words_outside_the_layout_cost_the_format_as_released():
    assert overall(RELEASED, "so: " + reasoned("well", TRUTH)) == pytest.approx(0.51, abs=1e-6)


def test_a_perfect_report_earns_1_with_cider_alive():
    (score,) = clinical()([reasoned("I look at the heart first", TRUTH)], [REFERENCE])
    assert score["overall"] == pytest.approx(1.0, abs=1e-6) and score["cider"] == pytest.approx(1.0, abs=1e-6)


def test_the_wrong_finding_in_the_right_words_loses_clinically():
    right = TRUTH.replace("small left", "moderate left")  # still an effusion
    wrong = TRUTH.replace("is a small left", "is no left").replace(", effusion", "alone")
    scores = clinical()([reasoned("well", right), reasoned("well", wrong)], [REFERENCE] * 2)
    assert scores[0]["clinical"] == 1 and scores[1]["clinical"] < 1
    assert scores[0]["overall"] > scores[1]["overall"]


@pytest.mark.parametrize(
    "output",
    [
        TRUTH,  # no tags
        "",
        "<answer></answer>",
        "<think></think><answer></answer>",
        "<think>" * 50,
        reasoned("well", ""),
    ],
)
def test_nothing_said_earns_little(output):
    assert overall(clinical(), output) <= 0.2


def test_an_empty_think_and_a_second_answer_earn_no_format():
    for output in (
        reasoned(" ", TRUTH),
        reasoned("a", TRUTH) + "<answer>b</answer>",
        reasoned("<answer>x</answer>", TRUTH),
    ):
        assert clinical()([output], [REFERENCE])[0]["format"] == 0


def test_repeating_the_answer_does_not_pay():
    once, thrice = reasoned("well", TRUTH), reasoned("well", " ".join([TRUTH] * 3))
    scores = clinical()([once, thrice], [REFERENCE] * 2)
    assert scores[1]["overall"] < 0.6 < scores[0]["overall"]


PIECES = st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "a", "b", " ", ".", "\n", "effusion"])


@given(st.lists(PIECES).map("".join))
def test_any_output_has_a_score_between_0_and_1(output):
    for reward in (RELEASED, clinical()):
        (score,) = reward([output], [REFERENCE])
        assert all(0 <= value <= 1 + 1e-6 for value in score.values())


def test_meteor_of_exact_matches():
    assert meteor.meteor("a b c", "a b c") == 1
    assert meteor.meteor("x", "a b c") == 0 == meteor.meteor("", "a")
    assert meteor.meteor("a b c d", "d c b a") < meteor.meteor("a b d c", "a b c d") < 1
    # 3 of 4 words in one chunk: P = R = 0.75, penalty 0.6 (1/3)^0.2
    assert meteor.meteor("a b c x", "a b c d") == pytest.approx(0.75 * (1 - 0.6 * (1 / 3) ** 0.2))


def test_variety_counts_repetition():
    assert layout.variety("") == layout.variety("one sentence only") == 1
    assert layout.variety("a b c. d e f.") == 1
    assert layout.variety("a b c. a b c. a b c.") < 0.6


def test_the_clinical_mode_needs_a_corpus():
    with pytest.raises(ValueError, match="two different references"):
        registry.reward("report", "clinical", [REFERENCE])


def test_an_unknown_mode_names_the_known_ones():
    with pytest.raises(ValueError, match="report/released"):
        registry.reward("report", "clincal")
