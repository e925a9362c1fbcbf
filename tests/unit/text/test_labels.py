"""CheXpert labels and findings that an answer lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.tasks.prompts import classification_answer
from diagcot.text.labels import canonical, chexpert, finding, findings


@given(st.lists(st.sampled_from(CHEXPERT_LABELS[1:]), unique=True))
def test_our_own_answers_are_read_back(names):
    assert chexpert(classification_answer(names)) == (set(names) or {"No Finding"})


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ("edema, Fracture.", {"Edema", "Fracture"}),
        ("The labels of this X-ray image are: Edema and Fracture", {"Edema", "Fracture"}),
        ("Edema, No Finding", {"Edema"}),
        ("No abnormality is seen in this image.", {"No Finding"}),
        ("Edema,", {"Edema"}),
        ("no edema", set()),  # states nothing about the label
        ("the patient is well", set()),
        ("", set()),
    ],
)
def test_labels_of_an_answer(answer, names):
    assert chexpert(answer) == names


def test_findings_of_a_list_with_other_words_for_them():
    assert findings("Enlarged heart, pleural fluid; edema ✅") == ["Cardiomegaly", "Pleural Effusion", "Edema"]
    assert findings("Differential Diagnoses: [Edema, edema]") == ["Edema"]
    assert findings(" , ;") == []
    assert canonical("no effusion") == "no effusion" and canonical("Silicosis") == "silicosis"


def test_the_one_finding_of_a_step():
    assert finding("Enlarged heart ✅") == "Cardiomegaly"
    assert finding("Edema, Fracture ❌") == finding("✅") == ""
