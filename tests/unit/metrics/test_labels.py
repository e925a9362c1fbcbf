"""Agreement over CheXpert labels."""

import numpy as np
import pytest

from diagcot.metrics import labels


def test_counts_add_up_to_f1():
    hyps = [{"Edema": 1, "Cardiomegaly": 1}, {"No Finding": 1}, {}]
    refs = [{"Edema": -1, "Pneumonia": 1}, {"No Finding": 1}, {"Edema": 0}]
    counts = labels.agreement(hyps, refs)
    assert counts.shape == (3, 14, 3)
    assert counts.sum(axis=(0, 1)).tolist() == [2, 1, 1]  # in doubt counts as stated, denied does not
    assert labels.micro_f1(counts.sum(axis=0)) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert labels.macro_f1(counts.sum(axis=0)) == pytest.approx((1 + 1 + 0 + 0) / 4)


def test_nothing_to_find_and_nothing_claimed():
    counts = labels.agreement([{}], [{}]).sum(axis=0)
    assert labels.micro_f1(counts) == 1 and labels.macro_f1(counts) == 1
    assert labels.micro_f1(np.zeros((5, 14, 3))).shape == (5,)


def test_f1_of_reports():
    refs = ["The heart is enlarged. There is a small left pleural effusion.", "The lungs are clear."]
    assert labels.f1(refs, refs) == {"micro": 1, "macro": 1}
    other = labels.f1(["The heart is normal. No pleural effusion.", "The lungs are clear."], refs)
    assert 0 <= other["micro"] < 1
    assert labels.f1(refs, refs, labels.FIVE)["micro"] == 1


def test_sides_of_different_length_are_refused():
    with pytest.raises(ValueError, match="one reference each"):
        labels.agreement([{}], [])
