"""DiagCoT's reward of reports: medical_report.py of the release, its variants and its spine version."""

import re
from collections.abc import Sequence

from diagcot.metrics.meteor import meteor
from diagcot.metrics.repetition import variety_as_released
from diagcot.metrics.text import rouge_l, sentence_bleu
from diagcot.metrics.tokens import words
from diagcot.rewards.released import layout
from diagcot.rewards.score import Reference, Score

_IMPRESSION = re.compile(r"impression\s*:", re.IGNORECASE)


def released(
    outputs: Sequence[str],
    references: Sequence[Reference],
    progress: float = 0.0,
    *,
    whole: bool = False,
    repetition: bool = False,
    spine: bool = False,
) -> list[Score]:
    """0.4 format + 0.6 nlg; 0.1 without an answer block.

    Its facts are kept: CIDEr of a single pair is 0, so a perfect report earns 0.91, and nothing clinical counts.
    `whole` (ablation task 3) scores the whole output if there is no answer block; `repetition` is 0.3 format +
    0.5 nlg + 0.2 variety of the think text; `spine` scores only what follows the first `Impression :` of the answer, against
    the whole reference.
    """
    answers = [layout.answer(output) for output in outputs]
    read = [output if answer is None else answer for output, answer in zip(outputs, answers, strict=True)]
    if spine:
        read = [_IMPRESSION.split(text, maxsplit=1)[-1] for text in read]
    hyps, refs = [words(text) for text in read], [words(reference.answer) for reference in references]
    rows = []
    for output, answer, nlg in zip(outputs, answers, nlg_parts(hyps, refs, [0.0] * len(hyps)), strict=True):
        in_layout = float(layout.is_single(output))
        if not whole and answer is None:
            rows.append({"overall": 0.1, "format": 0.0, **dict.fromkeys(nlg, 0.0)})
        elif repetition:
            varied = variety_as_released(next(iter(layout.thinks(output)), ""))
            overall = 0.3 * in_layout + 0.5 * nlg["nlg"] + 0.2 * varied
            rows.append({"overall": overall, "format": in_layout, **nlg, "variety": varied})
        else:
            rows.append({"overall": 0.4 * in_layout + 0.6 * nlg["nlg"], "format": in_layout, **nlg})
    return rows


def nlg_parts(hyps: Sequence[str], refs: Sequence[str], ciders: Sequence[float]) -> list[Score]:
    """0.15 (BLEU-1 + ... + BLEU-4 + ROUGE-L + CIDEr) + 0.10 METEOR of tokenised texts as `nlg`, and its terms."""
    rows = []
    meteors = meteor.meteor_of(meteor.counts(hyps, refs))
    for bleu, rouge, rarity, aligned in zip(
        sentence_bleu(hyps, refs).tolist(), rouge_l(hyps, refs).tolist(), ciders, meteors.tolist(), strict=True
    ):
        total = 0.15 * (sum(bleu) + rouge + rarity) + 0.10 * aligned
        rows.append({"nlg": total, "bleu4": bleu[3], "rouge_l": rouge, "cider": rarity, "meteor": aligned})
    return rows
