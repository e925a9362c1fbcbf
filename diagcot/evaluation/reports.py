"""Scores of written texts: whole reports, and the parts of a report that a question asks for."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from diagcot.data.labeler import label
from diagcot.data.study import CHEXPERT_LABELS
from diagcot.evaluation.predictions import Prediction
from diagcot.metrics import labels, text
from diagcot.metrics.intervals import Additive, Metric, mean

Array = text.Array
_labels = lru_cache(maxsize=65536)(label)  # a reference is read once for all models


def report_metrics(rows: Sequence[Prediction], words: Mapping[str, str]) -> dict[str, Metric | str]:
    """Everything about reports but METEOR. An answer that is empty or cut short is scored as it is."""
    hyps, refs = [words[row.answer] for row in rows], [words[row.reference] for row in rows]
    bleu = text.bleu_counts(hyps, refs)
    agreement = labels.agreement([_labels(row.answer) for row in rows], [_labels(row.reference) for row in rows])
    five = agreement[:, [CHEXPERT_LABELS.index(name) for name in labels.FIVE]]
    alone = text.bleu_of(bleu)
    return {
        **{f"bleu{n}": Additive(bleu, _bleu(n)) for n in range(1, text.ORDERS + 1)},
        "rouge_l": mean(text.rouge_l(hyps, refs)),
        "cider": mean(text.cider(hyps, refs)),
        "label_f1": Additive(agreement, labels.micro_f1),
        "label_f1_macro": Additive(agreement, labels.macro_f1),
        "label_f1_five": Additive(five, labels.micro_f1),
        "label_f1_five_macro": Additive(five, labels.macro_f1),
        **{f"bleu{n}_as_released": mean(alone[:, n - 1]) for n in range(1, text.ORDERS + 1)},
    }


def part_metrics(rows: Sequence[Prediction], words: Mapping[str, str]) -> dict[str, Metric | str]:
    """Of a part of a report, named after its task."""
    kept = ("bleu4", "rouge_l", "cider", "label_f1")
    found = report_metrics(rows, words)
    return {f"{rows[0].task}_{name}": found[name] for name in kept}


def _bleu(order: int) -> Callable[[Array], Array]:
    def score(sums: Array) -> Array:
        return text.bleu_of(sums)[..., order - 1]

    return score
