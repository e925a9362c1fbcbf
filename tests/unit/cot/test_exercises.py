"""Exercises of copying and of reading options: their answers are the right ones, and the same each time."""

import re

import pytest

from diagcot.cot.synthetic import exercises

STATEMENTS = ("The heart is normal in size.", "There is no pneumothorax.", "The lungs are clear.")


def test_a_copy_is_the_text_itself_short_or_long() -> None:
    lengths = []
    for number in range(50):
        prompt, answer = exercises.write("copy", STATEMENTS, f"s{number}")
        assert prompt == f"Copy this text without any change: {answer}"
        lengths.append(len(answer.split()))
    assert min(lengths) <= 6 and max(lengths) >= 36


@pytest.mark.parametrize("name", ["letters", "choice"])
def test_the_answers_are_those_of_the_options_that_are_asked_for(name: str) -> None:
    letters = []
    for number in range(200):
        prompt, answer = exercises.write(name, STATEMENTS, f"s{number}")
        options = dict(re.findall(r"^([A-G])\) (.+)$", prompt, re.MULTILINE))
        assert len(set(options.values())) == len(options) >= 2
        asked = re.search(r"Which option says: (.+)\?$", prompt)
        if asked:
            assert [options[letter] for letter in answer.split("; ")] == asked.group(1).split("; ")
            letters += answer.split("; ")
        else:
            (those,) = re.findall(r"What does option (.+) say\?$", prompt)
            assert [options[letter] for letter in those.split("; ")] == answer.split("; ")
    assert len(set(letters)) >= 4 and max(map(letters.count, set(letters))) < 0.45 * len(letters)


def test_each_option_is_followed_by_its_letter() -> None:
    for number in range(100):
        prompt, answer = exercises.write("matching", STATEMENTS, f"s{number}")
        options = dict(re.findall(r"^([A-G])\) (.+)$", prompt, re.MULTILINE))
        pairs = [each.rsplit(" ", 1) for each in answer.split("; ")]
        assert {letter: option for option, letter in pairs} == options
        assert prompt.endswith(f"Give the letter of: {'; '.join(option for option, _ in pairs)}")


@pytest.mark.parametrize("name", exercises.WRITERS)
def test_a_sample_gets_the_same_exercise_each_time(name: str) -> None:
    assert exercises.write(name, STATEMENTS, "x") == exercises.write(name, STATEMENTS, "x")


def test_the_conclusion_names_the_option_with_the_mark() -> None:
    for number in range(50):
        prompt, answer = exercises.write("marks", STATEMENTS, f"s{number}")
        (letter,) = [line.split()[-2] for line in prompt.split("\n") if line.endswith("✅")]
        (text,) = [line.split("? ")[0] for line in prompt.split("\n") if line.startswith(letter)]
        assert answer == f"In summary, the answer is {text}."
