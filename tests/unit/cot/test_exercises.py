"""Exercises of copying and of reading options: their answers are the right ones, and the same each time."""

import re

import pytest

from diagcot.cot.synthetic import exercises

STATEMENTS = ("The heart is normal in size.", "There is no pneumothorax.", "The lungs are clear.")


def test_a_copy_is_the_text_itself() -> None:
    for number in range(50):
        prompt, answer = exercises.write("copy", STATEMENTS, f"s{number}")
        assert prompt == f"Copy this text without any change: {answer}" and answer.endswith(".")


def test_the_answer_of_a_choice_is_the_option_that_is_asked_for() -> None:
    letters = []
    for number in range(200):
        prompt, answer = exercises.write("choice", STATEMENTS, f"s{number}")
        options = dict(re.findall(r"^([A-G])\) (.+)$", prompt, re.MULTILINE))
        assert len(set(options.values())) == len(options) >= 2
        asked = re.search(r"Which option says: (.+)\?$", prompt)
        if asked:
            assert options[answer] == asked.group(1)
            letters.append(answer)
        else:
            (letter,) = re.findall(r"What does option ([A-G]) say\?$", prompt)
            assert options[letter] == answer
    assert len(set(letters)) == 6 and max(map(letters.count, set(letters))) < 0.45 * len(letters)


@pytest.mark.parametrize("name", exercises.WRITERS)
def test_a_sample_gets_the_same_exercise_each_time(name: str) -> None:
    assert exercises.write(name, STATEMENTS, "x") == exercises.write(name, STATEMENTS, "x")
