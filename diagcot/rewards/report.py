"""Reward of a report that counts clinical agreement. DiagCoT's published formula is `diagcot.rewards.released.report`."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from diagcot.data.reports.labeler import label
from diagcot.metrics.repetition import variety
from diagcot.metrics.sets import specific_f1
from diagcot.metrics.text import Rarity, cider
from diagcot.metrics.tokens import words
from diagcot.rewards.released.report import nlg_parts
from diagcot.rewards.score import Reference, Score
from diagcot.text import layout
from diagcot.text.labels import ABNORMAL, NO_FINDING

CLINICAL = {"format": 0.2, "nlg": 0.4, "clinical": 0.4}
"""Weights of the clinical mode's components; they sum to 1."""

_OTHER = "Other"  # stands for findings outside the 14 labels
_NORMAL = re.compile(
    r"\b(?:normal|unremarkable|clear|within limits|no (?:[a-z]+ ){0,2}(?:abnormalit|process|disease|finding))"
)
_label = lru_cache(maxsize=8192)(label)  # a reference is compared with the outputs of a whole group


def clinical(
    outputs: Sequence[str], references: Sequence[Reference], progress: float = 0.0, *, rarity: Rarity
) -> list[Score]:
    """0.2 format + 0.4 nlg + 0.4 clinical, all 0 to 1, for the text in the answer block.

    clinical is `label_agreement`. nlg is DiagCoT's mixture with CIDEr weighed by the rarity of words in the training reports
    (0 to 10, divided by 10), so a perfect report earns 1; it counts half where no finding agrees. An output without an answer
    block earns nothing; a report that repeats itself more than its reference does keeps only its share of the reference's
    `variety` in both.
    """
    answers = [layout.first_answer(output) for output in outputs]
    truths = [layout.first_answer(reference.answer) for reference in references]
    hyps, refs = [words(text) for text in answers], [words(text) for text in truths]
    ciders = [min(1.0, float(value) / 10) for value in cider(hyps, refs, rarity)]
    rows = []
    for output, answer, truth, nlg in zip(outputs, answers, truths, nlg_parts(hyps, refs, ciders), strict=True):
        varied = min(1.0, variety(answer) / max(variety(truth), 1e-9))
        counted = varied * layout.has_answer(output)
        agreed = label_agreement(answer, truth)
        parts = {
            "format": float(layout.is_reasoned_single(output)),
            "nlg": nlg["nlg"] * counted * (1 + agreed) / 2,
            "clinical": agreed * counted,
        }
        overall = sum(weight * parts[name] for name, weight in CLINICAL.items())
        rows.append({"overall": overall, **nlg, **parts, "variety": varied})
    return rows


def label_agreement(report: str, reference: str) -> float:
    """F1 times specificity of the abnormal CheXpert labels that two reports state or leave in doubt, 0 to 1.

    Of a normal reference: 1 for a report that says that something is normal or absent, and states nothing abnormal. A normal
    report earns 0 on every other reference. Where both state only what no label names, such as a hernia: F1 of their words.
    """
    ours, theirs = _abnormal(report), _abnormal(reference)
    if ours == theirs == {_OTHER}:
        return _word_f1(words(report).split(), words(reference).split())
    return specific_f1(ours, theirs, ABNORMAL) if ours or theirs else 1.0


def _word_f1(ours: Sequence[str], theirs: Sequence[str]) -> float:
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / max(1, len(ours) + len(theirs))


def states_normal(report: str) -> bool:
    """Whether a report says that something is normal or absent."""
    return 0 in _label(report).values() or _NORMAL.search(report.lower()) is not None


def _abnormal(report: str) -> frozenset[str]:
    """Abnormal labels of a report; none of one that says that it is normal, and `_OTHER` of one that says neither."""
    found = _label(report)
    stated = frozenset(name for name in ABNORMAL if found.get(name, 0) != 0)
    normal = found.get(NO_FINDING) == 1 if found else states_normal(report)
    return stated if stated or normal else frozenset({_OTHER})
