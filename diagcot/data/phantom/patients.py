"""Invented patients: findings at rates that leave no finding rare, and a report written from them."""

from dataclasses import dataclass

import numpy as np

from diagcot.data.phantom.findings import DEVICES, SIDES, ZONES, Effusion, Findings, Place
from diagcot.data.seeded import generator
from diagcot.data.study import SPLITS

_INDICATIONS = ("cough", "chest pain", "shortness of breath", "fever", "fall", "preoperative film")


@dataclass(frozen=True)
class Visit:
    """One study of an invented patient, with MIMIC-CXR's kinds of numbers."""

    subject: int  # 8 digits
    study: int  # 8 digits
    split: str
    findings: Findings
    indication: str


def visits(count: int, seed: int = 0, held_out: float = 0.1) -> list[Visit]:
    """`count` studies of about two thirds as many patients; a patient stays in one split.

    `held_out` is the share of each of validate and test.
    """
    rng = generator("patients", seed)
    found: list[Visit] = []
    subject = 10_000_000
    while len(found) < count:
        subject += int(rng.integers(1, 2000))
        split = SPLITS[int(np.searchsorted([1 - 2 * held_out, 1 - held_out], rng.random(), side="right"))]
        for _ in range(min(int(rng.integers(1, 3)), count - len(found))):
            study = 50_000_000 + len(found) * 997 % 9_999_991
            found.append(Visit(subject, study, split, sample(rng), str(rng.choice(_INDICATIONS))))
    return found


def sample(rng: np.random.Generator) -> Findings:
    """Findings of one study: a fifth are normal; effusion, opacity and an enlarged heart are the commonest."""
    if rng.random() < 0.15:
        return Findings()

    def side() -> str:
        return str(rng.choice(SIDES))

    effusions: tuple[Effusion, ...] = ()
    if rng.random() < 0.38:
        size = str(rng.choice(["small", "large"]))
        sides = sorted(SIDES) if rng.random() < 0.2 else [side()]
        effusions = tuple(Effusion(s, size) for s in sides)
    filled = {e.side for e in effusions}
    opacities: tuple[Place, ...] = ()
    if rng.random() < 0.42:
        opacities = (_free(rng, filled),)
    nodules: tuple[Place, ...] = ()
    if not opacities and rng.random() < 0.2:
        nodules = (_free(rng, filled),)
    bases = [s for s in SIDES if s not in filled and Place(s, "lower") not in opacities + nodules]
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


def _free(rng: np.random.Generator, filled: set[str]) -> Place:
    """A zone that no effusion hides."""
    places = [Place(side, zone) for side in SIDES for zone in ZONES if not (side in filled and zone == "lower")]
    return places[int(rng.integers(len(places)))]
