"""DiagCoT's reward of CheXpert labels: medical_classification_reward_multichoice_2_improved.py of the release."""

import math
import re
from itertools import groupby

from diagcot.rewards.released import layout
from diagcot.rewards.score import Reference, Score

DIFFICULTY = {
    "enlarged cardiomediastinum": 1.4,
    "cardiomegaly": 0.8,
    "lung opacity": 0.9,
    "edema": 1.2,
    "consolidation": 1.3,
    "atelectasis": 1.0,
    "pleural effusion": 1.1,
    "support devices": 0.6,
    "pneumonia": 1.5,
    "lung lesion": 1.6,
    "pneumothorax": 1.7,
    "pleural other": 1.8,
    "fracture": 2.0,
    "no finding": 0.3,
}
"""Label -> its weight. The order decides which label an incomplete name stands for."""

_SENTENCE = "The label of this X-ray image is:"
_NOTHING = "No significant abnormalities were found in this X-ray."
_COMMON = ("lung", "chest", "heart", "opacity", "finding", "image", "x-ray")
_LEAST_LINES = 5  # of an output that can be repetitive
_SHORT_LINE = 10  # characters; lines up to here are not compared
_FREE_REPEATS = 4  # consecutive ones


def released(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """(0.1 format + 0.9 agreement) × repetition; the release never passes its training progress, so it is always 0.

    `format` and `labels` (the release's "classification") include the factor `repetition`.
    """
    factor = repetition(output)
    in_layout = layout.is_single(output) * factor
    agreed = agreement(labels(output), labels(reference.answer)) * factor
    overall = 0.1 * in_layout + 0.9 * agreed
    return {"overall": overall, "format": in_layout, "labels": agreed, "repetition": factor}


def labels(text: str) -> frozenset[str]:
    """Labels that a text names, in lower case, with the faults of the release.

    An empty item is Enlarged Cardiomediastinum, "no finding" anywhere discards the rest, and part of a name is enough.
    """
    block = layout.answer(text)
    items = (text if block is None else block).split(_SENTENCE)[-1]
    if _NOTHING in items or "no finding" in items.lower():
        return frozenset({"no finding"})
    found = {_label(re.sub(r"[^\w\s]", "", part.strip().lower()).strip()) for part in items.split(",")} - {""}
    return frozenset(found or {name for name in DIFFICULTY if name in items.lower()})


def agreement(predicted: frozenset[str], truth: frozenset[str]) -> float:
    """Difficulty-weighted agreement of two label sets, 0 to 1, with a sigmoid that spreads middle values."""
    shared, union = predicted & truth, predicted | truth
    if predicted == truth:
        value = 1.0
    elif not shared:
        return 0.0
    elif predicted < truth:
        value = 0.9 * len(predicted) / len(truth) + 0.1 * _weight(predicted) / _weight(truth)
    elif truth < predicted:
        value = 0.85 * (1 - 0.3 * len(predicted - truth) / len(predicted))
    else:
        value = 0.6 * len(shared) / len(union) + 0.4 * _weight(shared) / _weight(union)
    return 0.7 * value + 0.3 / (1 + math.exp(-10 * (value - 0.5)))


def repetition(output: str) -> float:
    """0.5 for several think blocks; 0.6 to 0.9 for more than four repeats in a row; down to 0.7 for few distinct lines.

    Only lines of more than ten characters and fewer than three common words count, in outputs of at least five lines.
    """
    if len(layout.thinks(output)) > 1:
        return 0.5
    every = output.split("\n")
    lines = [line for text in every if len(line := text.lower().strip()) > _SHORT_LINE and _uncommon(line)]
    if len(every) < _LEAST_LINES or not lines:
        return 1.0
    repeats = max(len(list(same)) for _, same in groupby(lines)) - 1
    if repeats > _FREE_REPEATS:
        return max(0.6, 1.0 - (repeats - _FREE_REPEATS) * 0.1)
    repeated = 1.0 - len(set(lines)) / len(lines)
    return max(0.7, 1.0 - repeated * 0.8) if repeated > 0.7 else 1.0


def _label(name: str) -> str:
    """The label of a name, or the first one that is part of it or that it is part of; empty if there is none."""
    return name if name in DIFFICULTY else next((known for known in DIFFICULTY if name in known or known in name), "")


def _weight(names: frozenset[str]) -> float:
    return sum(DIFFICULTY[name] for name in sorted(names))


def _uncommon(line: str) -> bool:
    return sum(word in line for word in _COMMON) < 3
