"""The reader of statements: sentences by table, every sentence of a phantom's report, and time that grows with the text."""

import time
from random import Random

import pytest

from diagcot.data.phantom.findings import DEVICES, SIDES, ZONES, Effusion, Findings, Place
from diagcot.data.reports.statements import statements

PLACES = [Place(side, zone) for side in SIDES for zone in ZONES]
NAMED = {"pacemaker": ("pacemaker", "left"), "line": ("line", "right"), "tube": ("endotracheal tube", "")}


@pytest.mark.parametrize(
    ("sentence", "stated"),
    [
        (
            "Small left and large right pleural effusions.",
            ["small left pleural effusion", "large right pleural effusion"],
        ),
        ("Large effusion on the right and small on the left.", ["large right pleural effusion", "small left pleural effusion"]),
        ("Left and right basal atelectasis.", ["left lower zone atelectasis", "right lower zone atelectasis"]),
        ("Bibasilar atelectasis.", ["bilateral lower zone atelectasis"]),
        ("Right mid zone opacity and left nodule.", ["right mid zone lung opacity", "left lung lesion"]),
        (
            "Opacity in the right upper zone, left mid zone and left nodule.",
            ["right upper zone lung opacity", "left mid zone lung opacity", "left lung lesion"],
        ),
        ("Opacities in the right upper and mid zones.", ["right upper zone lung opacity", "right mid zone lung opacity"]),
        ("Small left effusion and the right lung is clear.", ["small left pleural effusion"]),
        ("The right lung is clear, the left shows an opacity.", ["left lung opacity"]),
        ("Small bilateral effusions, left greater than right.", ["small bilateral pleural effusion"]),
        ("Right upper lobe collapse.", ["right upper zone atelectasis"]),
        ("Mild to moderate cardiomegaly.", ["mild to moderate cardiomegaly"]),
        ("The heart is large.", ["cardiomegaly"]),
        ("The left ventricle is prominent and there is an effusion.", ["pleural effusion"]),
        ("There is no left effusion.", ["no left pleural effusion"]),
        ("Possible small right pneumothorax.", ["possible small right pneumothorax"]),
        ("Is there a pneumothorax?", []),
        ("I look for a right pneumothorax: none.", []),
        ("No other nodule.", []),
        ("I first thought of a left effusion.", ["possible left pleural effusion"]),
        ("The left angle is sharp; the fluid is on the right.", ["no left pleural effusion", "right pleural effusion"]),
        ("The lungs are clear.", ["clear lungs"]),
        ("The lungs are otherwise clear.", []),
        ("The lungs are clear except for an opacity in the left base.", ["left lower zone lung opacity"]),
        ("No acute cardiopulmonary process.", ["no finding"]),
        ("A left pacemaker and a right PICC are in place.", ["left pacemaker", "right line"]),
        ("Sternotomy wires are intact.", ["wires"]),
    ],
)  # fmt: skip
def test_what_a_sentence_states(sentence, stated):
    assert [str(one) for one in statements(sentence)] == stated


def test_every_report_of_a_phantom_is_read_as_what_it_shows():
    random = Random(0)
    for _ in range(1500):
        findings = _findings(random)
        section, impression = findings.report()
        assert _read(section) == _shown(findings, devices=True), section
        assert _read(impression) == _shown(findings, devices=False), impression
        lowered = f"findings : {section.lower()} impression : {impression.lower()}"
        assert _read(lowered) == _shown(findings, devices=True), lowered


def test_a_correction_counts_as_one():
    found = statements(
        "There is a left effusion. Wait, it is not. The effusion is on the right. Is it large? It is small."
    )
    assert [one.revision for one in found] == [0, 1]


@pytest.mark.parametrize(
    "text",
    [
        "left upper zone opacity and right basal atelectasis, ",
        "left, right and small ",
        "opacity ",
        "no effusion in the left base. ",
        "wait, ",
    ],
)
def test_time_grows_with_the_text_not_with_its_square(text):
    def seconds(times: int) -> float:
        start = time.process_time()
        statements(text * times)
        return time.process_time() - start

    seconds(20)
    long = min(seconds(3000) for _ in range(3))  # the least of three: other work costs CPU time, too
    assert long < 30 * max(min(seconds(300) for _ in range(3)), 0.005)


def _findings(random: Random) -> Findings:
    """Findings at random, far more of them than a phantom has."""

    def some(of, most):
        return tuple(sorted(random.sample(list(of), random.randint(0, most))))

    return Findings(
        heart=random.choice(["normal", "mild", "severe"]),
        opacities=some(PLACES, 3),
        nodules=some(PLACES, 3),
        atelectasis=some(SIDES, 2),
        edema=random.random() < 0.3,
        effusions=tuple(Effusion(side, random.choice(["small", "large"])) for side in some(SIDES, 2)),
        pneumothorax=random.choice(["", *SIDES]),
        device=random.choice(["", *DEVICES]),
    )


def _shown(findings: Findings, devices: bool) -> set[tuple[str, ...]]:
    """(finding, side, zone, degree) of everything that is shown."""
    shown: set[tuple[str, ...]] = {("lung opacity", p.side, p.zone, "") for p in findings.opacities}
    shown |= {("lung lesion", p.side, p.zone, "") for p in findings.nodules}
    shown |= {("atelectasis", side, "lower", "") for side in findings.atelectasis}
    shown |= {("pleural effusion", e.side, "", e.size) for e in findings.effusions}
    shown |= {("cardiomegaly", "", "", findings.heart)} if findings.heart != "normal" else set()
    shown |= {("edema", "", "", "")} if findings.edema else set()
    shown |= {("pneumothorax", findings.pneumothorax, "", "")} if findings.pneumothorax else set()
    shown |= {(*NAMED[findings.device], "", "")} if findings.device and devices else set()
    return shown


def _read(text: str) -> set[tuple[str, ...]]:
    return {
        (one.name, side, one.zone, one.degree)
        for one in statements(text)
        if one.status == 1 and one.name not in ("no finding", "clear lungs")
        for side in one.sides or {""}
    }
