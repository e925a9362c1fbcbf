"""The truth of traces: judged by what is drawn, by two ways, of which one does not use the reader of statements."""

from random import Random
from typing import Any

import pytest

from diagcot.cot.review import truth
from diagcot.cot.review.truth import Known, untruths
from diagcot.cot.synthetic.conversations import Material, Reading
from diagcot.data.phantom.findings import Effusion, Findings, Place
from diagcot.data.phantom.patients import visits
from diagcot.data.reports.facts import Facts
from diagcot.text.prose import readable
from tests.unit.cot.cot_traces import trace

SHOWN = Findings("mild", opacities=(Place("right", "mid"),), effusions=(Effusion("left", "small"),), device="line")
RIGHT = Reading.of(*SHOWN.report())


def of(reasoning: str = RIGHT.reasoning, answer: str = RIGHT.answer) -> Any:
    return trace(reasoning=reasoning, answer=answer)


def test_true_readings_are_true_and_others_are_not():
    seen = visits(200, seed=6)
    random = Random(0)
    by_words = 0
    for number in range(200):
        right, other = random.sample(seen, 2)
        reading, wrong = (Reading.of(*visit.findings.report()) for visit in (right, other))
        if not reading.differences(wrong):
            continue
        drawn = truth.known_of(right.findings.tags())
        corrected = Material(f"s{number}", reading, wrong).reasoning
        for thought in (reading.reasoning, corrected):
            assert not untruths(of(thought, reading.answer), drawn), thought
        assert untruths(of(wrong.reasoning, reading.answer), drawn)
        assert untruths(of(reading.reasoning, wrong.answer), drawn)
        by_words += bool([*truth._by_words(wrong.reasoning, drawn.drawn or (), brief=False)])
    assert by_words > 120  # most are found without the reader of statements


@pytest.mark.parametrize(
    ("old", "new", "aspect"),
    [
        ("right mid zone", "left mid zone", "side"),
        ("right mid zone", "right lower zone", "zone"),
        ("small left", "small right", "side"),
        ("small left", "large left", "severity"),
        ("an opacity", "a nodule", "label"),
    ],
)
def test_one_untruth_is_named(old, new, aspect):
    drawn = truth.known_of(SHOWN.tags())
    assert old in RIGHT.reasoning
    assert aspect in untruths(of(RIGHT.reasoning.replace(old, new)), drawn)
    assert aspect in untruths(of(answer=RIGHT.answer.replace(old, new)), drawn)


def test_of_a_real_study_only_labels_count():
    labels = Known(
        None, Facts.of_labels({"Cardiomegaly": 1, "Lung Opacity": 1, "Pleural Effusion": 1, "Support Devices": 1})
    )
    assert labels.abnormal
    assert not untruths(of(RIGHT.reasoning.replace("small left", "small right")), labels)
    assert untruths(of(RIGHT.reasoning + " There is edema."), labels) == {"label"}


def test_texts_are_shown_as_people_write_them():
    shown = readable("findings : the heart is large . no edema . impression : cardiomegaly .")
    assert shown == "Findings: The heart is large. No edema. Impression: Cardiomegaly."
    assert readable("I see 1.5 cm.\nthe rest is clear.") == "I see 1.5 cm.\nThe rest is clear."
