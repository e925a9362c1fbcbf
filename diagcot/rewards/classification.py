"""Reward of a list of CheXpert labels: the difficulty-weighted formula of TMLSIAT/DiagCoT-main (arXiv:2509.06409)."""

import math

from diagcot.rewards import released as published
from diagcot.rewards.score import Reference, Score
from diagcot.text import labels, layout

DIFFICULTY = {
    "No Finding": 0.3,
    "Support Devices": 0.6,
    "Cardiomegaly": 0.8,
    "Lung Opacity": 0.9,
    "Atelectasis": 1.0,
    "Pleural Effusion": 1.1,
    "Edema": 1.2,
    "Consolidation": 1.3,
    "Enlarged Cardiomediastinum": 1.4,
    "Pneumonia": 1.5,
    "Lung Lesion": 1.6,
    "Pneumothorax": 1.7,
    "Pleural Other": 1.8,
    "Fracture": 2.0,
}
"""CheXpert label -> its weight."""


def agreement(predicted: frozenset[str], truth: frozenset[str], progress: float) -> float:
    """Difficulty-weighted agreement of two label sets, 0 to 1, stricter as `progress` goes from 0 to 1."""
    phase = 0 if progress < 0.3 else 1 if progress < 0.7 else 2
    shared, union = predicted & truth, predicted | truth

    def weight(names: frozenset[str]) -> float:
        return sum(DIFFICULTY[name] for name in names)

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


def released(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """The reward as released: `progress` never reached the formula, so it is always 0, and the parser's faults count.

    The layout that the release rewards is not the one that its prompt asks for, so no output earns the format.
    """
    agreed = agreement(published.chexpert(output), published.chexpert(reference.answer), 0.0)
    return _combine(0.0, agreed, _repetition(output), 0.0)


def curriculum(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """The formula with training progress, labels as evaluation reads them, and no format for an empty think."""
    answer, truth = (labels.chexpert(layout.first_answer(text)) for text in (output, reference.answer))
    agreed = agreement(answer, truth, progress)
    return _combine(float(layout.is_single(output)), agreed, _repetition(output), progress)


def _repetition(output: str) -> float:
    """0.5 for more than one think block; otherwise the share of distinct lines, at least 0.6."""
    if output.count("<think>") > 1:
        return 0.5
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return max(0.6, len(set(lines)) / len(lines)) if lines else 1.0


def _combine(layout_score: float, agreed: float, repetition: float, progress: float) -> Score:
    weight = 0.1 * (1 - 0.5 * progress)
    overall = (weight * layout_score + (1 - weight) * agreed) * repetition
    return {"overall": overall, "format": layout_score, "labels": agreed, "repetition": repetition}
