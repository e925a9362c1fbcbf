"""Reward of a list of CheXpert labels: DiagCoT's difficulty weights and training progress, without the release's holes.

Source of weights and progress: TMLSIAT/DiagCoT-main (arXiv:2509.06409); the published formula is
`diagcot.rewards.released.classification`.
"""

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.metrics.sets import specific_f1
from diagcot.rewards.released.classification import DIFFICULTY, repetition
from diagcot.rewards.score import Reference, Score
from diagcot.text import labels, layout

WEIGHTS = {name: DIFFICULTY[name.lower()] for name in CHEXPERT_LABELS}
"""CheXpert label -> its weight."""


def agreement(predicted: frozenset[str], truth: frozenset[str], progress: float) -> float:
    """Difficulty-weighted F1 times specificity, 0 to 1, to the power of 1 + `progress`.

    Partial answers earn less as training progresses from 0 to 1; naming all labels earns nothing at any time.
    """
    return float(specific_f1(predicted, truth, labels.ABNORMAL, WEIGHTS) ** (1 + progress))


def curriculum(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """(w format + (1 - w) labels) × repetition, w = 0.1 (1 - progress / 2), labels as evaluation reads them.

    `repetition` is the release's penalty for repeated lines, or the share of distinct items in the list if it is smaller.
    A reference that names no CheXpert label pays nothing for labels.
    """
    answer, truth = layout.first_answer(output), labels.chexpert(layout.first_answer(reference.answer))
    agreed = agreement(labels.chexpert(answer), truth, progress) if truth else 0.0
    items = labels.listed(answer)
    factor = min(repetition(output), len(set(items)) / max(1, len(items)) if items else 1.0)
    in_layout = float(layout.is_reasoned_single(output))
    weight = 0.1 * (1 - 0.5 * progress)
    overall = (weight * in_layout + (1 - weight) * agreed) * factor
    return {"overall": overall, "format": in_layout, "labels": agreed, "repetition": factor}
