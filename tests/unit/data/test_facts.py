"""What a text states in the end, and how two texts differ in it."""

import pytest

from diagcot.data.reports.facts import Facts, contradictions, omissions

REFERENCE = (
    "findings : the heart is mildly enlarged. there is an opacity in the right mid zone. there is a small left pleural"
    " effusion. there is no pneumothorax. a right central line is in place. impression : mild cardiomegaly, right mid zone"
    " opacity and small left pleural effusion ."
)
TRUE = (
    "The heart is mildly enlarged. I see an opacity in the right mid zone, a small left pleural effusion and a right line"
    " in place."
)


@pytest.mark.parametrize(
    ("text", "aspects"),
    [
        (TRUE, []),
        (TRUE + " There is no pneumothorax.", []),
        (TRUE + " There is no fracture.", []),  # the reference is silent
        (TRUE + " There is an opacity.", []),
        (TRUE + " There is a right pneumothorax.", ["label"]),
        (TRUE + " There may be edema.", ["label"]),
        (TRUE + " At first it looked like edema. The vessels are thin, so there is no edema.", []),
        (TRUE + " The lungs are clear.", ["label"]),
        (TRUE + " No acute cardiopulmonary process.", ["label"]),
        (TRUE + " There is no effusion.", ["label"]),
        (TRUE + " There is no left effusion.", ["side"]),
        (TRUE + " There is no right effusion, and no large effusion.", []),
        (TRUE.replace("left", "right"), ["side"]),
        (TRUE.replace("left", "bilateral"), ["side"]),
        (TRUE.replace("mid zone", "base"), ["zone"]),
        (TRUE.replace("small", "large"), ["severity"]),
        (TRUE.replace("mildly", "severely"), ["severity"]),
        (TRUE.replace("right line", "pacemaker"), ["device"]),
        (TRUE.replace("right line", "left line"), ["side"]),
    ],
)
def test_what_contradicts_the_reference(text, aspects):
    assert [found.aspect for found in contradictions(Facts.of(text), Facts.of(REFERENCE))] == aspects


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        (TRUE, []),
        (TRUE.replace("left pleural", "pleural"), ["left pleural effusion"]),
        (TRUE.replace("an opacity", "lungs"), ["lung opacity"]),
        (TRUE.replace(" and a right line in place", ""), ["line"]),
    ],
)
def test_what_the_reference_states_must_be_mentioned(text, missing):
    assert [found.words for found in omissions(Facts.of(text), Facts.of(REFERENCE))] == missing


@pytest.mark.parametrize(
    "corrected",
    [
        "I first thought of a left effusion. Wait, the left angle is sharp; the fluid is on the right.",
        "There is a left effusion. Wait, it is on the other side: there is a right effusion.",
        "There are bilateral effusions. Hmm, looking again, there is no left effusion.",
        "There is no effusion. On closer inspection, there is a right effusion.",
        "The lungs are clear and nothing is seen. Wait, there is a right effusion.",
        "There is a left effusion. My reading of the pleura is wrong. There is a right effusion.",
        "There is a nodule and a right effusion. Wait, my reading of the lungs is wrong. Nothing is seen there.",
        "A right effusion. My first impression is: opacity. So the corrected impression is: right effusion.",
        "A right effusion. I look at the devices: a pacemaker is in place. Wait, my reading of the devices is wrong.",
        "A pacemaker is in place. Wait, no device is seen. There is a right effusion.",
    ],
)
def test_what_a_text_takes_back_does_not_count(corrected):
    facts, reference = Facts.of(corrected), Facts.of("There is a right pleural effusion.")
    assert not [*contradictions(facts, reference), *omissions(facts, reference)]


@pytest.mark.parametrize(
    "contradicted",
    [
        "There is a left effusion. There is a right effusion.",  # nothing says that the first was wrong
        "There is a right effusion. Wait, there is a left effusion too.",
        "There is a right effusion. Wait, the right angle is sharp.",
        "There is a right effusion. Actually, there is a left effusion.",
        "There is no effusion. There is a right effusion.",
    ],
)
def test_what_still_stands_counts(contradicted):
    assert [*contradictions(Facts.of(contradicted), Facts.of("There is a right pleural effusion."))]


def test_doubt_of_the_reference_allows_both():
    doubt = Facts.of("Possible left pneumonia.")
    for text in ("Left pneumonia.", "No pneumonia.", "Possible pneumonia.", "The heart is normal in size."):
        assert not [*contradictions(Facts.of(text), doubt), *omissions(Facts.of(text), doubt)]
    assert [*contradictions(Facts.of("Right pneumonia."), doubt)]


def test_a_general_finding_stands_for_its_case_only_where_asked():
    thought, report = Facts.of("An opacity at the right base."), Facts.of("Right basal atelectasis.")
    assert [*contradictions(thought, report)] and not [*contradictions(thought, report, general=True)]
    assert [*contradictions(Facts.of("An opacity at the left base."), report, general=True)]


def test_labels_as_facts():
    gold = Facts.of_labels({"Edema": 1, "Fracture": 0, "Pneumonia": -1, "No Finding": 0, "Support Devices": 1})
    assert gold.present() == ["edema", "device"] and gold.denies("fracture") and not gold.states("no finding")
    assert not [*contradictions(Facts.of("Edema, a left pacemaker, and possibly pneumonia."), gold)]
    assert [found.words for found in omissions(Facts.of("Edema."), gold)] == ["device"]
