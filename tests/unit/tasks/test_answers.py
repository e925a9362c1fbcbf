"""The layouts of answers, ours and those of the published systems, are read back as what they say."""

import pytest

from diagcot.data.study import Box
from diagcot.tasks.prompts import Layout, classification_answer, grounding_answer, report_answer, report_text
from diagcot.text import boxes, labels, layout, options

LAYOUTS: tuple[Layout, ...] = ("default", "diagcot")


def test_labels() -> None:
    assert classification_answer(["Edema", "Lung Opacity"], "diagcot") == (
        "The label of this X-ray image is:edema, lung opacity"
    )
    assert classification_answer(["No Finding"], "diagcot") == "No significant abnormalities were found"
    for style in LAYOUTS:
        assert labels.chexpert(classification_answer(["Edema", "Lung Opacity"], style)) == {"Edema", "Lung Opacity"}
        assert labels.chexpert(classification_answer([], style)) == {"No Finding"}


@pytest.mark.parametrize("style", LAYOUTS)
def test_boxes(style: Layout) -> None:
    two = [Box("", 0.1, 0.2, 0.3, 0.4), Box("", 0.5, 0.6, 0.7, 0.8)]
    assert boxes.parse(grounding_answer("lung opacity", two, style)) == two
    assert boxes.claimed(grounding_answer("lung opacity", [], style)) == []


def test_boxes_as_diagcot_writes_them() -> None:
    two = [Box("", 0.1, 0.2, 0.3, 0.4), Box("", 0.5, 0.6, 0.7, 0.8)]
    assert grounding_answer("lung opacity", two, "diagcot") == (
        "The detected lung opacity regions are: Lung Opacity: <box>(100,200),(300,400)</box>,"
        " Lung Opacity: <box>(500,600),(700,800)</box>"
    )
    assert grounding_answer("lung opacity", [], "diagcot") == (
        "The detected lung opacity regions are: No lung opacity regions detected."
    )


def test_the_layouts_of_cx_mind() -> None:
    closed = "<think>no</think><answer>A) ❌</answer>\n<think>yes</think><answer>B) ✅</answer>\n"
    closed += "<think>so</think><answer>B) ✅</answer>"
    assert [options.judged(pair.answer) for pair in layout.pairs(closed)] == ["A", "B", "B"]
    assert layout.is_interleaved(closed)
    first = "<think>seen</think><answer>Differential Diagnoses: [Edema, Fracture]</answer>"
    assert labels.findings(layout.pairs(first)[0].answer) == ["Edema", "Fracture"]
    assert boxes.parse_pixels("[12, 30, 200.5, 310]") == [Box("", 12, 30, 200.5, 310)]


def test_a_report_in_both_layouts() -> None:
    assert (
        report_text("The heart is large.", "Cardiomegaly.") == "Findings: The heart is large. Impression: Cardiomegaly."
    )
    assert report_text("The heart\nis large.", "") == "Findings: The heart is large."
    assert report_answer("The heart is large.", "") == "findings : the heart is large ."
