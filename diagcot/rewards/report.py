"""Reward of a report: DiagCoT's formula as released, and one that also counts clinical agreement."""

import re
from collections.abc import Sequence
from functools import lru_cache

from diagcot.data.reports.labeler import label
from diagcot.metrics.labels import agreement, micro_f1
from diagcot.metrics.meteor import meteor
from diagcot.metrics.text import Rarity, cider, rouge_l, sentence_bleu
from diagcot.metrics.tokens import words
from diagcot.rewards import layout
from diagcot.rewards.score import Reference, Score
from diagcot.tasks.prompts import answer_of

CLINICAL = {"format": 0.2, "nlg": 0.4, "clinical": 0.4}
"""Weights of the clinical mode's components; they sum to 1."""
_ANSWER = re.compile(r"<answer>.*?</answer>", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_IMPRESSION = re.compile(r"impression\s*:", re.IGNORECASE)
_label = lru_cache(maxsize=8192)(label)  # a reference meets the outputs of a whole group


def _nlg(hyps: Sequence[str], refs: Sequence[str], ciders: Sequence[float]) -> list[Score]:
    """0.15 (BLEU-1 + ... + BLEU-4 + ROUGE-L + CIDEr) + 0.10 METEOR and its terms (method.md 5.3)."""
    rows = []
    meteors = meteor.meteor_of(meteor.counts(hyps, refs))
    for bleu, rouge, rarity, aligned in zip(
        sentence_bleu(hyps, refs).tolist(), rouge_l(hyps, refs).tolist(), ciders, meteors.tolist(), strict=True
    ):
        total = 0.15 * (sum(bleu) + rouge + rarity) + 0.10 * aligned
        rows.append({"nlg": total, "bleu4": bleu[3], "rouge_l": rouge, "cider": rarity, "meteor": aligned})
    return rows


def _texts(outputs: Sequence[str], references: Sequence[Reference]) -> tuple[list[str], list[str]]:
    return [answer_of(output) for output in outputs], [answer_of(reference.answer) for reference in references]


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
    """DiagCoT's `medical_report` and its variants (method.md 5.3): 0.4 format + 0.6 nlg; 0.1 without an answer block.

    Its facts are kept: CIDEr of a single pair is 0, so a perfect report earns 0.91, and nothing clinical counts.
    `whole` (ablation task 3) scores the whole output where there is no answer block; `repetition` is 0.3 format +
    0.5 nlg + 0.2 variety of the think text; `spine` scores only what follows `Impression :`.
    """
    answers, truths = _texts(outputs, references)
    if spine:
        answers, truths = [_after_impression(text) for text in answers], [_after_impression(text) for text in truths]
    hyps, refs = [words(text) for text in answers], [words(text) for text in truths]
    rows = []
    for output, nlg in zip(outputs, _nlg(hyps, refs, [0.0] * len(hyps)), strict=True):
        form = float(layout.single_as_released(output))
        if not whole and not _ANSWER.search(output):
            rows.append({"overall": 0.1, "format": 0.0, **dict.fromkeys(nlg, 0.0)})
        elif repetition:
            think = _THINK.search(output)
            variety = layout.variety(think.group(1) if think else "")
            rows.append(
                {"overall": 0.3 * form + 0.5 * nlg["nlg"] + 0.2 * variety, "format": form, **nlg, "variety": variety}
            )
        else:
            rows.append({"overall": 0.4 * form + 0.6 * nlg["nlg"], "format": form, **nlg})
    return rows


def clinical(
    outputs: Sequence[str], references: Sequence[Reference], progress: float = 0.0, *, rarity: Rarity
) -> list[Score]:
    """0.2 format + 0.4 nlg + 0.4 label F1, all 0 to 1, for what stands in the answer block.

    CIDEr counts words by their rarity in the training reports (0 to 10, divided by 10), so it is alive and a perfect
    report earns 1. Label F1 is over the 14 CheXpert labels of the two reports; claiming every label costs precision.
    An output without an answer block earns nothing; a report that repeats itself more than its reference does keeps
    only its share of the reference's `variety`.
    """
    answers, truths = _texts(outputs, references)
    hyps, refs = [words(text) for text in answers], [words(text) for text in truths]
    ciders = [min(1.0, float(value) / 10) for value in cider(hyps, refs, rarity)]
    f1 = micro_f1(agreement([_label(text) for text in answers], [_label(text) for text in truths]))
    rows = []
    for output, answer, truth, nlg, agreed in zip(outputs, answers, truths, _nlg(hyps, refs, ciders), f1, strict=True):
        answered = float("<answer>" in output and answer != output.strip())
        form = float(layout.single(output))
        variety = min(1.0, layout.variety(answer) / max(layout.variety(truth), 1e-9))
        parts = {"format": form, "nlg": nlg["nlg"] * variety * answered, "clinical": float(agreed) * variety * answered}
        overall = sum(weight * parts[name] for name, weight in CLINICAL.items())
        rows.append({"overall": overall, **nlg, **parts, "variety": variety})
    return rows
