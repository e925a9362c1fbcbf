"""Invented patients: findings at rates at which none is rare, and the text of their reports."""

from dataclasses import dataclass

import numpy as np

from diagcot.data.phantom.findings import DEVICES, SIDES, ZONES, Effusion, Findings, Place
from diagcot.data.seeded import generator
from diagcot.data.study import SPLITS

_INDICATIONS = ("cough", "chest pain", "shortness of breath", "fever", "fall", "preoperative film")


@dataclass(frozen=True)
class Visit:
    """One study of an invented patient, with numbers like those of MIMIC-CXR."""

    subject: int  # 8 digits
    study: int  # 8 digits
    split: str
    findings: Findings
    indication: str


def visits(count: int, seed: int = 0, held_out: float = 0.1) -> list[Visit]:
    """`count` studies of about two thirds as many patients; a patient stays in one split.

    held_out: share of the patients in each of validate and test, from 0 to 0.5.
    """
    rng = generator("patients", seed)
    studies: list[Visit] = []
    subject = 10_000_000
    while len(studies) < count:
        subject += int(rng.integers(1, 2000))
        split = SPLITS[int(np.searchsorted([1 - 2 * held_out, 1 - held_out], rng.random(), side="right"))]
        for _ in range(min(int(rng.integers(1, 3)), count - len(studies))):
            number = 50_000_000 + len(studies) * 997 % 9_999_991
            studies.append(Visit(subject, number, split, sample(rng), str(rng.choice(_INDICATIONS))))
    return studies


def sample(rng: np.random.Generator) -> Findings:
    """Random findings of one study. About a fifth are normal; effusion, opacity and an enlarged heart are most frequent."""
    if rng.random() < 0.15:
        return Findings()

    def side() -> str:
        return str(rng.choice(SIDES))

    effusions: tuple[Effusion, ...] = ()
    if rng.random() < 0.38:
        size = str(rng.choice(["small", "large"]))
        sides = sorted(SIDES) if rng.random() < 0.2 else [side()]
        effusions = tuple(Effusion(s, size) for s in sides)
    hidden = {e.side for e in effusions}
    opacities: tuple[Place, ...] = ()
    if rng.random() < 0.42:
        opacities = (_visible_place(rng, hidden),)
    nodules: tuple[Place, ...] = ()
    if not opacities and rng.random() < 0.2:
        nodules = (_visible_place(rng, hidden),)
    bases = [s for s in SIDES if s not in hidden and Place(s, "lower") not in opacities + nodules]
    atelectasis = (str(rng.choice(bases)),) if bases and rng.random() < 0.12 else ()
    clear = [s for s in SIDES if not any(p.side == s for p in opacities + nodules)]
    pneumothorax = str(rng.choice(clear)) if clear and rng.random() < 0.2 else ""
    return Findings(
        heart=str(rng.choice(["normal", "mild", "severe"], p=[0.55, 0.2, 0.25])),
        opacities=opacities,
        nodules=nodules,
        atelectasis=atelectasis,
        edema=not opacities and not nodules and not pneumothorax and rng.random() < 0.12,
        effusions=effusions,
        pneumothorax=pneumothorax,
        device=str(rng.choice(DEVICES)) if rng.random() < 0.3 else "",
    )


def _visible_place(rng: np.random.Generator, hidden: set[str]) -> Place:
    """A random place that no effusion hides. hidden: sides with an effusion."""
    places = [Place(side, zone) for side in SIDES for zone in ZONES if not (side in hidden and zone == "lower")]
    return places[int(rng.integers(len(places)))]
