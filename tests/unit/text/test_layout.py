"""Think and answer tags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.tasks.prompts import reasoned
from diagcot.text.layout import Pair, first_answer, is_interleaved, is_single, last_answer, pairs, thinking

WORDS = st.text("abc .,", min_size=1).filter(lambda text: any(letter.isalpha() for letter in text))


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_pairs_are_read_back(steps):
    output = "\n".join(reasoned(think, answer) for think, answer in steps)
    assert pairs(output) == [Pair(think.strip(), answer.strip()) for think, answer in steps]
    assert first_answer(output) == steps[0][1].strip() and last_answer(output) == steps[-1][1].strip()
    assert thinking(output) == steps[0][0].strip()
    assert is_single(output) == (len(steps) == 1)


def test_text_without_tags_is_the_answer():
    assert first_answer(" Edema ") == last_answer(" Edema ") == "Edema" and thinking("Edema") == ""
    assert thinking("<THINK>cut short") == "cut short"


@pytest.mark.parametrize(
    "output",
    ["", "so: " + reasoned("a", "b"), reasoned(" ", "b"), reasoned("a", ""), reasoned("a", "<think>b")],
)
def test_what_is_no_single_pair(output):
    assert not is_single(output)


def test_pairs_with_copied_or_empty_thinks_are_not_interleaved():
    assert is_interleaved(reasoned("a", "x") + reasoned("b", "x"))
    assert not is_interleaved(reasoned("a", "x") + reasoned("A ", "y"))
    assert not is_interleaved(reasoned("a", "x") + reasoned(" ", "y"))
