"""Reward of a report: DiagCoT's formula as released, and one that also counts clinical agreement."""

import re
from collections.abc import Sequence
from functools import lru_cache

from diagcot.data.reports.labeler import label
from diagcot.metrics.labels import agreement, micro_f1
from diagcot.metrics.meteor import meteor
from diagcot.metrics.repetition import variety
from diagcot.metrics.text import Rarity, cider, rouge_l, sentence_bleu
from diagcot.metrics.tokens import words
from diagcot.rewards import released as published
from diagcot.rewards.score import Reference, Score
from diagcot.text import layout

CLINICAL = {"format": 0.2, "nlg": 0.4, "clinical": 0.4}
"""Weights of the clinical mode's components; they sum to 1."""
_IMPRESSION = re.compile(r"impression\s*:", re.IGNORECASE)
_label = lru_cache(maxsize=8192)(label)  # a reference is compared with the outputs of a whole group


def _nlg(hyps: Sequence[str], refs: Sequence[str], ciders: Sequence[float]) -> list[Score]:
    """0.15 (BLEU-1 + ... + BLEU-4 + ROUGE-L + CIDEr) + 0.10 METEOR, and its terms (medical_report.py of the release)."""
    rows = []
    meteors = meteor.meteor_of(meteor.counts(hyps, refs))
    for bleu, rouge, rarity, aligned in zip(
        sentence_bleu(hyps, refs).tolist(), rouge_l(hyps, refs).tolist(), ciders, meteors.tolist(), strict=True
    ):
        total = 0.15 * (sum(bleu) + rouge + rarity) + 0.10 * aligned
        rows.append({"nlg": total, "bleu4": bleu[3], "rouge_l": rouge, "cider": rarity, "meteor": aligned})
    return rows


def _texts(outputs: Sequence[str], references: Sequence[Reference]) -> tuple[list[str], list[str]]:
    truths = [layout.first_answer(reference.answer) for reference in references]
    return [layout.first_answer(output) for output in outputs], truths


def _after_impression(text: str) -> str:
    """What follows the last `Impression :`, or the whole text."""
    return _IMPRESSION.split(text)[-1].strip()


def released(
    outputs: Sequence[str],
    references: Sequence[Reference],
    progress: float = 0.0,
    *,
    whole: bool = False,
    repetition: bool = False,
    spine: bool = False,
) -> list[Score]:
    """DiagCoT's `medical_report.py` and its variants: 0.4 format + 0.6 nlg; 0.1 without an answer block.

    Its facts are kept: CIDEr of a single pair is 0, so a perfect report earns 0.91, and nothing clinical counts.
    `whole` (ablation task 3) scores the whole output if there is no answer block; `repetition` is 0.3 format +
    0.5 nlg + 0.2 variety of the think text; `spine` scores only what follows `Impression :`.
    """
    answers, truths = _texts(outputs, references)
    if spine:
        answers, truths = [_after_impression(text) for text in answers], [_after_impression(text) for text in truths]
    hyps, refs = [words(text) for text in answers], [words(text) for text in truths]
    rows = []
    for output, nlg in zip(outputs, _nlg(hyps, refs, [0.0] * len(hyps)), strict=True):
        in_layout = float(published.is_single(output))
        if not whole and not published.has_answer(output):
            rows.append({"overall": 0.1, "format": 0.0, **dict.fromkeys(nlg, 0.0)})
        elif repetition:
            varied = variety(published.thinking(output))
            overall = 0.3 * in_layout + 0.5 * nlg["nlg"] + 0.2 * varied
            rows.append({"overall": overall, "format": in_layout, **nlg, "variety": varied})
        else:
            rows.append({"overall": 0.4 * in_layout + 0.6 * nlg["nlg"], "format": in_layout, **nlg})
    return rows


def clinical(
    outputs: Sequence[str], references: Sequence[Reference], progress: float = 0.0, *, rarity: Rarity
) -> list[Score]:
    """0.2 format + 0.4 nlg + 0.4 label F1, all 0 to 1, for the text in the answer block.

    CIDEr weighs words by their rarity in the training reports (0 to 10, divided by 10), so a perfect report earns 1. Label
    F1 is over the 14 CheXpert labels of the two reports; claiming every label costs precision. An output without an answer
    block earns nothing; a report that repeats itself more than its reference does keeps only its share of the reference's
    `variety`.
    """
    answers, truths = _texts(outputs, references)
    hyps, refs = [words(text) for text in answers], [words(text) for text in truths]
    ciders = [min(1.0, float(value) / 10) for value in cider(hyps, refs, rarity)]
    f1 = micro_f1(agreement([_label(text) for text in answers], [_label(text) for text in truths]))
    rows = []
    for output, answer, truth, nlg, agreed in zip(outputs, answers, truths, _nlg(hyps, refs, ciders), f1, strict=True):
        answered = float("<answer>" in output and answer != output.strip())
        varied = min(1.0, variety(answer) / max(variety(truth), 1e-9))
        parts = {
            "format": float(layout.is_single(output)),
            "nlg": nlg["nlg"] * varied * answered,
            "clinical": float(agreed) * varied * answered,
        }
        overall = sum(weight * parts[name] for name, weight in CLINICAL.items())
        rows.append({"overall": overall, **nlg, **parts, "variety": varied})
    return rows
