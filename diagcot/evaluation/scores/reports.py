"""Scores of written texts: whole reports, and the parts of a report that a question asks for."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from diagcot.data.reports.labeler import label
from diagcot.data.reports.transforms import UNKNOWN, clean_iu, clean_mimic
from diagcot.data.study import IU_XRAY
from diagcot.evaluation.failures import failed, unmatched, words_of
from diagcot.metrics import labels, radcliq, text
from diagcot.metrics.intervals import Additive, Metric, mean
from diagcot.tasks.predictions import Prediction

Array = text.Array
_FINDINGS = re.compile(r"\bfindings\s*:\s*(.*?)(?:\bimpression\s*:|$)", re.IGNORECASE | re.DOTALL)
_KEPT = "unkxunk"  # stands for <unk> while R2Gen's cleaning drops brackets
_labels = lru_cache(maxsize=1 << 18)(label)  # a reference is read once for all models


def read_labels(rows: Sequence[Prediction]) -> None:
    """Read the labels of answers and references, which `report_metrics` will need: the tokeniser may run meanwhile."""
    for row in rows:
        _labels(row.answer), _labels(row.reference)


def report_metrics(rows: Sequence[Prediction], words: Mapping[str, str]) -> dict[str, Metric | str]:
    """Everything about reports but METEOR. An answer that is empty or cut short is scored as it is.

    BLEU, ROUGE-L and CIDEr take all references of a sample; labels and the protocols of others take the first.
    """
    lost = failed(rows)
    hyps, refs = [words_of(row, words) for row in rows], [tuple(words[text] for text in row.references) for row in rows]
    counts = text.bleu_counts(hyps, refs)
    bleu = _without_length(counts, lost)
    ours, theirs = [_labels(row.answer) for row in rows], [_labels(row.reference) for row in rows]
    found, five, none = (
        labels.all_wrong(labels.agreement(ours, theirs, names), lost)
        for names in (labels.FINDINGS, labels.FIVE, ("No Finding",))
    )
    alone, smoothed = text.bleu_of(bleu), text.bleu_method1_of(counts)
    return {
        **{f"bleu{n}": Additive(bleu, _bleu(n)) for n in range(1, text.ORDERS + 1)},
        "rouge_l": mean(text.rouge_l(hyps, refs)),
        "cider": _cider(hyps, refs),
        "rule_label_f1": Additive(found, labels.micro_f1),
        "rule_label_f1_macro": Additive(found, labels.macro_f1),
        "rule_label_f1_five": Additive(five, labels.micro_f1),
        "rule_label_f1_five_macro": Additive(five, labels.macro_f1),
        "rule_no_finding_f1": Additive(none, labels.micro_f1),
        **{f"bleu{n}_as_released": mean(alone[:, n - 1]) for n in range(1, text.ORDERS + 1)},
        **{f"bleu{n}_method1": mean(smoothed[:, n - 1]) for n in range(1, text.ORDERS + 1)},
        "bleu2_rexrank": mean(text.sentence_bleu(*_rexrank_texts(rows))[:, 1]),
    }


def part_metrics(rows: Sequence[Prediction], words: Mapping[str, str]) -> dict[str, Metric | str]:
    """Of a part of a report, named after its task."""
    kept = ("bleu4", "rouge_l", "cider", "rule_label_f1")
    found = report_metrics(rows, words)
    return {f"{rows[0].task}_{name}": found[name] for name in kept}


def _rexrank_texts(rows: Sequence[Prediction]) -> tuple[list[str], list[str]]:
    """Answers and references in the words of CXR-Report-Metric, which ReXrank's BLEU-2 takes; headings as ReXrank has them."""
    both = ((row.answer, row.reference) for row in rows)
    answers, references = zip(
        *([radcliq.words(side.replace(" :", ":")) for side in pair] for pair in both), strict=True
    )
    return list(answers), list(references)


def r2gen_texts(rows: Sequence[Prediction]) -> tuple[list[str], list[str]]:
    """Answers and references by R2Gen's protocol (Chen et al. 2020, arXiv:2010.16056): the findings alone, its own
    cleaning in place of a tokeniser, 59 words of IU-Xray and 99 of others. `<unk>` stands where the shards have it
    (transform `r2gen_iu` or `r2gen_mimic`); a model's rare word matches nothing, as in the original.
    """
    refs = [_r2gen(row.reference, row.dataset) for row in rows]
    hyps = [
        unmatched(ref) if row.finish == "error" else _r2gen(row.answer, row.dataset)
        for row, ref in zip(rows, refs, strict=True)
    ]
    return hyps, refs


def _r2gen(report: str, dataset: str) -> str:
    found = _FINDINGS.search(report)
    text = (found.group(1) if found else report).replace(UNKNOWN, _KEPT)
    clean, most = (clean_iu, 59) if dataset == IU_XRAY else (clean_mimic, 99)
    return " ".join(clean(text).replace(_KEPT, UNKNOWN).split()[:most])


def r2gen_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """BLEU, ROUGE-L and CIDEr by R2Gen's protocol; METEOR comes with the others."""
    hyps, refs = r2gen_texts(rows)
    bleu = _without_length(text.bleu_counts(hyps, refs), failed(rows))
    return {
        **{f"bleu{n}_r2gen": Additive(bleu, _bleu(n)) for n in range(1, text.ORDERS + 1)},
        "rouge_l_r2gen": mean(text.rouge_l(hyps, refs)),
        "cider_r2gen": _cider(hyps, refs),
    }


def _without_length(counts: Array, lost: NDArray[np.bool_]) -> Array:
    """BLEU's counts; what failed adds no length, which the penalty for short texts would count in its favour."""
    return np.where((np.arange(counts.shape[1]) == 0) & lost[:, None], 0, counts)


def _cider(hyps: Sequence[str], refs: Sequence[text.Reference]) -> Metric | str:
    if len(set(refs)) < 2:
        return "CIDEr needs two different references: it weighs words by how few of the references have them"
    return mean(text.cider(hyps, refs))


def _bleu(order: int) -> Callable[[Array], Array]:
    def score(sums: Array) -> Array:
        return text.bleu_of(sums)[..., order - 1]

    return score
