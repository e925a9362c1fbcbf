"""Reward of a list of labels: DiagCoT's difficulty-weighted formula (method.md 5.3)."""

import math
import re

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.rewards import layout
from diagcot.rewards.score import Reference, Score
from diagcot.tasks.prompts import answer_of

DIFFICULTY = {
    "no finding": 0.3,
    "support devices": 0.6,
    "cardiomegaly": 0.8,
    "lung opacity": 0.9,
    "atelectasis": 1.0,
    "pleural effusion": 1.1,
    "edema": 1.2,
    "consolidation": 1.3,
    "enlarged cardiomediastinum": 1.4,
    "pneumonia": 1.5,
    "lung lesion": 1.6,
    "pneumothorax": 1.7,
    "pleural other": 1.8,
    "fracture": 2.0,
}
_LABELS = tuple(name.lower() for name in CHEXPERT_LABELS)
_SENTENCE = re.compile(r"the labels? of this x-?ray image (?:is|are)\s*:", re.IGNORECASE)
_NONE = ("no finding", "no abnormalit")


def _region(output: str) -> str:
    """What follows the last label sentence; else the answer block; else everything (method.md 6.3)."""
    found = list(_SENTENCE.finditer(output))
    if not found:
        return answer_of(output).lower()
    return re.split(r"</?\w+>", output[found[-1].end() :])[0].strip().lower()


def parse_as_released(output: str) -> frozenset[str]:
    """The release's parser with its faults: an empty item counts as enlarged cardiomediastinum, and "no finding"
    anywhere discards the rest (method.md 6.3)."""
    text = _region(output)
    if any(phrase in text for phrase in _NONE):
        return frozenset({"no finding"})
    labels = set()
    for item in text.split(","):
        item = item.strip().strip(".;:!?").strip()
        exact = [name for name in _LABELS[1:] if name == item]
        labels.update(exact or [name for name in _LABELS[1:] if item in name or name in item][:1])
    return frozenset(labels or {name for name in _LABELS[1:] if name in text})


def parse(output: str) -> frozenset[str]:
    """The labels named as whole words in an output's answer, lower case; "no finding" only where it stands alone."""
    text = _region(output).replace("no abnormality", "no finding").replace("no abnormalities", "no finding")
    labels = {name for name in _LABELS if re.search(rf"\b{re.escape(name)}\b", text)}
    return frozenset(labels - {"no finding"} or labels)


def agreement(predicted: frozenset[str], truth: frozenset[str], progress: float) -> float:
    """Difficulty-weighted agreement of two label sets, 0 to 1, stricter as `progress` goes from 0 to 1."""
    phase = 0 if progress < 0.3 else 1 if progress < 0.7 else 2
    shared, union = predicted & truth, predicted | truth

    def weight(labels: frozenset[str]) -> float:
        return sum(DIFFICULTY[name] for name in labels)

    if predicted == truth:
        value = 1.0
    elif not shared:
        return 0.0
    elif predicted < truth:
        a = (0.9, 0.8, 0.7)[phase]
        value = a * len(predicted) / len(truth) + (1 - a) * weight(predicted) / weight(truth)
    elif truth < predicted:
        b, c = ((0.85, 0.3), (0.75, 0.5), (0.65, 0.7))[phase]
        value = b * (1 - c * len(predicted - truth) / len(predicted))
    else:
        plain, weighted = ((0.6, 0.4), (0.4, 0.3), (0.3, 0.2))[phase]
        value = plain * len(shared) / len(union) + weighted * weight(shared) / weight(union)
    return 0.7 * value + 0.3 / (1 + math.exp(-10 * (value - 0.5)))


def _repetition(output: str) -> float:
    """0.5 for more than one think block; else 1 less the share of repeated lines, at least 0.6."""
    if len(re.findall(r"<think>", output)) > 1:
        return 0.5
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return max(0.6, len(set(lines)) / len(lines)) if lines else 1.0


def _combine(form: float, agreed: float, repetition: float, progress: float) -> Score:
    weight = 0.1 * (1 - 0.5 * progress)
    overall = (weight * form + (1 - weight) * agreed) * repetition
    return {"overall": overall, "format": form, "labels": agreed, "repetition": repetition}


def released(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """As released: `progress` never reached the formula, so it is 0 always, and the parser's faults count.

    The layout it rewards is not the one its prompt asks for (method.md 12.16), so no output earns the format.
    """
    agreed = agreement(parse_as_released(output), parse_as_released(reference.answer), 0.0)
    return _combine(0.0, agreed, _repetition(output), 0.0)


def curriculum(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """The formula as meant: stricter as training goes on, whole words as labels, no format for an empty think."""
    agreed = agreement(parse(output), parse(reference.answer), progress)
    return _combine(float(layout.single(output)), agreed, _repetition(output), progress)
