"""The report reward: the released constants, and what the clinical mode mends."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagcot.metrics.repetition import variety, variety_as_released
from diagcot.rewards import registry
from diagcot.rewards.score import Reference
from diagcot.tasks.prompts import reasoned

TRUTH = (
    "findings : the heart is enlarged . there is a small left pleural effusion . impression : large heart , effusion ."
)
OTHER = "findings : the lungs are clear . the heart is of normal size . impression : no acute disease ."
REFERENCE = Reference(TRUTH)


def released(*given):
    return registry.reward("report", "released")(*given)


def clinical():
    return registry.reward("report", "clinical", [REFERENCE, Reference(OTHER)])


def overall(reward, output, truth=TRUTH):
    return reward([output], [Reference(truth)])[0]["overall"]


def test_a_perfect_report_earns_0_91_as_released():
    assert overall(released, reasoned("I look at the heart first", TRUTH)) == pytest.approx(0.91, abs=1e-6)


def test_cider_of_a_single_pair_is_dead_as_released():
    assert released([reasoned("well", TRUTH)], [REFERENCE])[0]["cider"] == 0


def test_no_answer_earns_the_floor_as_released():
    (score,) = released([TRUTH], [REFERENCE])
    assert score["overall"] == 0.1 and score["format"] == 0


def test_words_outside_the_layout_cost_the_format_as_released():
    assert overall(released, "so: " + reasoned("well", TRUTH)) == pytest.approx(0.51, abs=1e-6)


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


@settings(deadline=None)
@given(st.lists(PIECES).map("".join))
def test_any_output_has_a_score_between_0_and_1(output):
    for reward in (released, clinical()):
        (score,) = reward([output], [REFERENCE])
        assert all(0 <= value <= 1 + 1e-6 for value in score.values())


def test_a_synonym_counts_for_meteor():
    say = lambda word: reasoned("well", TRUTH.replace("large heart", f"{word} heart"))  # noqa: E731
    big, odd = clinical()([say("big"), say("green")], [REFERENCE] * 2)
    assert big["bleu4"] == odd["bleu4"] and big["meteor"] > odd["meteor"]


def test_the_variants_of_the_release():
    score = lambda mode, output: registry.reward("report", mode)([output], [REFERENCE])[0]  # noqa: E731
    assert score("whole", TRUTH)["overall"] == pytest.approx(0.6 * 0.85, abs=1e-6)  # no tags: no format, no floor
    twice = "the heart is large. the heart is large. the lungs are clear."
    assert score("repetition", reasoned("I look at it", TRUTH))["overall"] == pytest.approx(0.3 + 0.5 * 0.85 + 0.2)
    assert score("repetition", reasoned(twice, TRUTH))["overall"] == pytest.approx(
        0.3 + 0.5 * 0.85 + 0.2 * variety_as_released(twice)
    )


def test_variety_by_hand():
    # 3 sentences of which 2 differ; trigrams 7 of 9 differ... counted by hand over "a b. a b. c"
    value = 0.5 * 2 / 3 + 0.3 * 3 / 3 + 0.15 * 3 / 4 + 0.05
    assert variety("a b. a b. c") == pytest.approx(value)


def test_a_reward_that_was_used_still_pickles():
    reward = clinical()
    before = reward([reasoned("well", TRUTH)], [REFERENCE])
    assert pickle.loads(pickle.dumps(reward))([reasoned("well", TRUTH)], [REFERENCE]) == before


ATTACKS = {
    "empty": "",
    "tags alone": "<think></think><answer></answer>",
    "no tags": OTHER,
    "one word for ever": reasoned("well", "effusion " * 300),
    "the think again and again": reasoned("the heart is large. " * 40, OTHER),
    "every label": reasoned("well", "atelectasis edema pneumonia consolidation pneumothorax fracture effusion nodule"),
    "markers": "<answer>" * 50 + "</answer>" * 50,
    "odd characters": reasoned("\x00\u2028", "||| \ud83e\x00 <box>"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_comes_near_an_honest_report(attack):
    reward = clinical()
    honest = reasoned("the heart looks large", TRUTH.replace("small left", "left"))
    scores = reward([ATTACKS[attack], honest], [REFERENCE] * 2)
    assert 0 <= scores[0]["overall"] < 0.5 < scores[1]["overall"] <= 1


def test_variety_counts_repetition():
    assert variety("") == variety("one sentence only") == 1
    assert variety("a b c. d e f.") == 1
    assert variety("a b c. a b c. a b c.") < 0.6


def test_the_clinical_mode_needs_a_corpus():
    with pytest.raises(ValueError, match="two different references"):
        registry.reward("report", "clinical", [REFERENCE])


def test_an_unknown_mode_names_the_known_ones():
    with pytest.raises(ValueError, match="report/released"):
        registry.reward("report", "clincal")
