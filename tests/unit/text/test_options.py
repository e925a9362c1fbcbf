"""Options of closed questions and the marks of steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.text.options import chosen, judged, listed, mark, named

OPTIONS = ["Edema", "Pleural Effusion", "No Finding"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B) ✅", "B"),
        ("b) is it", "B"),
        ("(b)", "B"),
        ("b", "B"),
        ("Option b", "B"),
        ("**B** ✅", "B"),
        ("A small lesion is not seen, so: No Finding", "C"),  # the article
        ("A chest X-ray with a large heart: B", "B"),
        ("A is right", "A"),
        ("No pleural effusion", ""),  # denied
        ("There is no edema, but a pleural effusion", "B"),
        ("The answer is C", "C"),
        ("final: Edema", "A"),
        ("pleural effusion.", "B"),
        ("A) Edema ✅", "A"),
        ("B) ❌", ""),  # judges it wrong
        ("A) or B)", ""),  # two are no choice
        ("F) ✅", ""),  # not on offer
        ("", ""),
        ("edema and pleural effusion", ""),
        ("The patient is well", ""),
    ],
)
def test_the_option_of_an_answer(answer, letter):
    assert chosen(answer, OPTIONS) == letter


YES_NO = ["Yes", "No"]
FOUR = ["Cardiomegaly", "Pleural Effusion", "Edema", "No Finding"]


@pytest.mark.parametrize(
    ("options", "answer", "letter"),
    [
        (YES_NO, "A small effusion is not seen, so: No", "B"),
        (YES_NO, "A chest X-ray of a normal heart. No.", "B"),
        (YES_NO, "B) No ❌", ""),
        (YES_NO, "B) No ✅", "B"),
        (YES_NO, "Yes", "A"),
        (YES_NO, "yes.", "A"),
        (YES_NO, "No.", "B"),
        (YES_NO, "no", "B"),
        (YES_NO, "(b)", "B"),
        (YES_NO, "b)", "B"),
        (YES_NO, "b", "B"),
        (YES_NO, "B", "B"),
        (YES_NO, "Option b", "B"),
        (YES_NO, "option B", "B"),
        (YES_NO, "Answer: A", "A"),
        (YES_NO, "answer: b", "B"),
        (YES_NO, "The answer is (A).", "A"),
        (YES_NO, "A) Yes ✅", "A"),
        (YES_NO, "**A**", "A"),
        (YES_NO, "a.", "A"),
        (YES_NO, "[B]", "B"),
        (YES_NO, "(B) No", "B"),
        (YES_NO, "B: No", "B"),
        (YES_NO, "B. No", "B"),
        (YES_NO, "B - No", "B"),
        (YES_NO, "Yes, there is a small effusion.", "A"),
        (YES_NO, "No, there is no effusion.", "B"),
        (YES_NO, "No evidence of effusion, so the answer is No", "B"),
        (YES_NO, "A is correct", "A"),
        (YES_NO, "I choose A", "A"),
        (YES_NO, "I choose option a", "A"),
        (YES_NO, "The correct option is B", "B"),
        (YES_NO, "Yes and No", ""),
        (YES_NO, "A or B", ""),
        (YES_NO, "", ""),
        (YES_NO, "Maybe", ""),
        (YES_NO, "C) Perhaps", ""),
        (YES_NO, "An effusion is present. Yes.", "A"),
        (YES_NO, "A large effusion is present: Yes", "A"),
        (YES_NO, "A pneumothorax is absent: B", "B"),
        (FOUR, "No pleural effusion", ""),
        (FOUR, "A right-sided effusion: Pleural Effusion", "B"),
        (FOUR, "Pleural Effusion", "B"),
        (FOUR, "pleural effusion.", "B"),
        (FOUR, "B) Pleural Effusion", "B"),
        (FOUR, "No Finding", "D"),
        (FOUR, "no finding", "D"),
        (FOUR, "D) No Finding ✅", "D"),
        (FOUR, "There is no pleural effusion, but edema", "C"),
        (FOUR, "Edema without cardiomegaly", "C"),
        (FOUR, "Not edema but cardiomegaly", "A"),
        (FOUR, "Cardiomegaly and edema", ""),
        (FOUR, "The most likely finding is Cardiomegaly.", "A"),
        (FOUR, "A heart of normal size and a small effusion: B", "B"),
        (FOUR, "A) Cardiomegaly ❌", ""),
        (FOUR, "Option C: Edema", "C"),
        (FOUR, "The option c", "C"),
        (FOUR, "E) Fracture", ""),
        (FOUR, "Final answer: D", "D"),
        (FOUR, "free of edema", ""),
        (FOUR, "Neither edema nor cardiomegaly", ""),
        (FOUR, "A. Cardiomegaly", "A"),
        (FOUR, "a) cardiomegaly", "A"),
        (FOUR, "<answer>B</answer>", "B"),
        (FOUR, "B) is right, A) is wrong", "B"),
        (FOUR, "A T-shaped line: Edema", "C"),
        (FOUR, "Edema ✅", "C"),
        (FOUR, "Edema ❌", ""),
        (FOUR, "✅ B", "B"),
    ],
)
def test_free_replies_to_closed_questions(options, answer, letter):
    assert chosen(answer, options) == letter


@given(st.integers(0, 6), st.sampled_from(["{0}) ✅", "{0})", "{0}. {1}", "Option {0}: {1}", "{1}", "{0}) {1} ✅"]))
def test_every_plain_way_to_name_an_option_is_read(place, layout):
    options = list(CHEXPERT_LABELS[4:11])
    assert chosen(layout.format("ABCDEFG"[place], options[place]), options) == "ABCDEFG"[place]


def test_an_option_is_named_whatever_its_mark():
    assert named("B) ❌") == named("B) ✅") == named("B") == "B"
    assert named("A) or B)") == named("nothing") == ""


@pytest.mark.parametrize(("text", "value"), [("A) ✅", True), ("A) ❌", False), ("A)", None), ("A) ✅❌", None)])
def test_the_mark_of_a_step(text, value):
    assert mark(text) is value
    assert judged(text) == ("A" if value is not None else "")


def test_the_options_of_a_question():
    assert listed("<image>Which?\nA) Edema\nB) B) or not\nC] x") == ["A", "B"]
