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
