"""The order of looking and judging in an interleaved trace."""

from typing import Any

import pytest

from diagcot.cot.search.evidence import judged_before_seen

SINGLE = {"options": ["No Finding", "Edema", "Fracture"]}
LOOK = "The vessels are wide. No bone is broken."
OPEN = [("I look at the image.", "Differential Diagnoses: [Edema, No Finding]")]
SUMMARY = ("In summary, it is this.", "B) ✅")


@pytest.mark.parametrize(
    ("pairs", "meta", "broken"),
    [
        ([(LOOK, "B) ✅"), ("Not this.", "C) ❌"), ("So no.", "A) ❌")], SINGLE, ""),
        ([(LOOK, "A) ❌"), ("There are lines.", "B) ✅"), ("Not this.", "C) ❌")], SINGLE, "No Finding is judged before"),
        ([("The vessels are wide.", "B) ✅"), ("Not this.", "C) ❌"), ("The ribs are whole.", "A) ❌")], SINGLE,
         "Fracture is judged before a thought is about fracture"),
        ([("The vessels are wide.", "B) ✅"), ("The ribs are whole.", "C) ❌"), ("So no.", "A) ❌")], SINGLE, ""),
        ([(f"{LOOK}\nB) Edema? It is.", "B) ✅"), ("C) Fracture? No.", "C) ❌"), ("A) No Finding? No.", "A) ❌")], SINGLE, ""),
        ([("C) Fracture? It is.", "C) ✅"), ("B) Edema? No.", "B) ❌"), ("A) No Finding? No.", "A) ❌")], SINGLE,
         "Fracture is judged before"),  # the option is no evidence
        ([("This fits.", "A) ✅"), ("That does not.", "B) ❌")], {"options": ["Yes", "No"], "label": "Edema"}, "Yes is judged"),
        ([("There is no edema.", "A) ❌"), ("So no.", "B) ✅")], {"options": ["Yes", "No"], "label": "Edema"}, ""),
        ([("The heart is wide.", "A) ✅"), ("It adds a finding.", "B) ❌")],
         {"options": ["Cardiomegaly", "Cardiomegaly, Pneumothorax"]}, "is judged before a thought is about pneumothorax"),
        ([("It is seen from the side.", "A) ✅"), ("Not this.", "B) ❌")], {"options": ["LATERAL", "PA"]}, ""),
        ([("Fluid is on the left.", "B) ✅"), ("No.", "A) ❌")], {"options": ["Neither", "Left"]}, ""),
    ],
)  # fmt: skip
def test_closed_questions(pairs: list[tuple[str, str]], meta: dict[str, Any], broken: str) -> None:
    found = judged_before_seen([*pairs, SUMMARY], meta)
    assert bool(found) == bool(broken) and broken in found


@pytest.mark.parametrize(
    ("steps", "broken"),
    [
        ([("The vessels are wide.", "Edema ✅"), ("I found something.", "No Finding ❌")], ""),
        (
            [("Something is there.", "No Finding ❌"), ("The vessels are wide.", "Edema ✅")],
            "No Finding is judged before",
        ),
        ([("It fits.", "Edema ✅"), ("The vessels are wide.", "No Finding ❌")], "Edema is judged before"),
        ([("Enough.", "Sarcoidosis ❌"), ("The vessels are wide.", "Edema ✅")], ""),  # no label: no words are known
    ],
)
def test_open_questions(steps: list[tuple[str, str]], broken: str) -> None:
    found = judged_before_seen([*OPEN, *steps, ("In summary, edema.", "Edema")], {})
    assert bool(found) == bool(broken) and broken in found
