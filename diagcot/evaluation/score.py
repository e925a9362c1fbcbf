"""From predictions to scores: the metrics of every task as additive counts; without Java the words are simpler."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from diagcot.data.labeler import label
from diagcot.data.study import CHEXPERT_LABELS
from diagcot.evaluation.predictions import Prediction
from diagcot.metrics import boxes, java, labels, meteor, text, tokens
from diagcot.metrics.intervals import Metric, mean, mean_of

Array = text.Array


@dataclass(frozen=True)
class Column:
    """A metric: its name in metrics.json, its title, the task it measures, and whether the short table has it."""

    name: str
    title: str
    task: str
    main: bool = True


COLUMNS = (
    Column("bleu1", "BLEU-1", "report"),
    Column("bleu2", "BLEU-2", "report"),
    Column("bleu3", "BLEU-3", "report"),
    Column("bleu4", "BLEU-4", "report"),
    Column("meteor", "METEOR", "report"),
    Column("rouge_l", "ROUGE-L", "report"),
    Column("cider", "CIDEr", "report"),
    Column("label_f1", "label F1", "report"),
    Column("iou", "grounding IoU", "grounding"),
    Column("label_f1_macro", "label F1, macro", "report", False),
    Column("label_f1_five", "label F1, five labels", "report", False),
    Column("bleu4_as_released", "BLEU-4, mean of samples (as released)", "report", False),
    Column("accuracy_50", "grounding accuracy at IoU 0.5", "grounding", False),
    Column("iou_of_shown", "grounding IoU, films that show the finding", "grounding", False),
    Column("iou_as_released", "IoU, mean over pairs (as released)", "grounding", False),
    Column("classification_f1", "classification F1", "classification", False),
    Column("classification_f1_macro", "classification F1, macro", "classification", False),
)


@dataclass
class TextTools:
    """The tokeniser and METEOR, used once for all models; `missing` says why something has no value."""

    java_s: float = 180  # how long the Java tokeniser may take for all texts
    tokenizer: str = "Penn Treebank"
    missing: dict[str, str] = field(default_factory=dict)

    def tokenize(self, texts: Sequence[str]) -> dict[str, str]:
        """Text -> its words, by one tokeniser for all: the Java one, or the simple one where there is no Java."""
        try:
            return dict(zip(texts, java.tokenize(texts, self.java_s), strict=True))
        except java.JavaError as error:
            self.tokenizer = "simple words"
            self.missing["tokenizer"] = str(error)
            return {text: tokens.words(text) for text in texts}

    def meteor(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Array]:
        """METEOR's counts of each pair of tokenised texts (ours, reference); nothing where METEOR is missing."""
        distinct = list(dict.fromkeys(pairs))
        try:
            counts = meteor.counts([hyp for hyp, _ in distinct], [ref for _, ref in distinct])
        except meteor.MeteorError as error:
            self.missing["meteor"] = str(error)
            return {}
        return dict(zip(distinct, counts, strict=True))


def meteor_metric(pairs: Sequence[tuple[str, str]], counts: Mapping[tuple[str, str], Array]) -> Metric:
    """METEOR of pairs whose counts are known."""
    return Metric(np.array([counts[pair] for pair in pairs]).reshape(-1, meteor.COUNTS), meteor.meteor_of)


def report_metrics(rows: Sequence[Prediction], words: dict[str, str]) -> dict[str, Metric | str]:
    """Everything about reports but METEOR. An answer that is empty or cut short is scored as it is."""
    hyps, refs = [words[row.answer] for row in rows], [words[row.reference] for row in rows]
    bleu = text.bleu_counts(hyps, refs)
    agreement = labels.agreement([_labels(row.answer) for row in rows], [_labels(row.reference) for row in rows])
    five = agreement[:, [CHEXPERT_LABELS.index(name) for name in labels.FIVE]]
    return {
        **{f"bleu{n}": Metric(bleu, _bleu(n)) for n in range(1, text.ORDERS + 1)},
        "rouge_l": mean(text.rouge_l(hyps, refs)),
        "cider": mean(text.cider(hyps, refs)),
        "label_f1": Metric(agreement, labels.micro_f1),
        "label_f1_macro": Metric(agreement, labels.macro_f1),
        "label_f1_five": Metric(five, labels.micro_f1),
        "bleu4_as_released": mean(text.bleu_of(bleu)[:, text.ORDERS - 1]),
    }


_labels = lru_cache(maxsize=65536)(label)  # a reference is read once for all models


def _bleu(order: int) -> Callable[[Array], Array]:
    def score(sums: Array) -> Array:
        return text.bleu_of(sums)[..., order - 1]

    return score


def grounding_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """IoU of boxes with the reference's; an answer that cannot be read scores 0."""
    truth = [boxes.parse(row.reference) for row in rows]
    matched = np.array([boxes.score(row.answer, theirs) for row, theirs in zip(rows, truth, strict=True)])
    released = [
        boxes.pairs_iou_as_released(boxes.parse(r.answer), theirs) for r, theirs in zip(rows, truth, strict=True)
    ]
    shown = np.array([float(bool(boxes.parse(row.reference))) for row in rows])
    counts = np.array([[value or 0.0, float(value is not None)] for value in released]).reshape(-1, 2)
    return {
        "iou": mean(matched),
        "iou_of_shown": Metric(np.stack([matched * shown, shown], axis=-1), mean_of)
        if shown.any()
        else "no film shows it",
        "accuracy_50": mean((matched >= 0.5).astype(np.float64)),
        "iou_as_released": Metric(counts, mean_of) if counts[:, 1].any() else "no sample has boxes on both sides",
    }


def classification_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """F1 of the labels that an answer names."""
    agreement = labels.agreement([_named(row.answer) for row in rows], [_named(row.reference) for row in rows])
    return {
        "classification_f1": Metric(agreement, labels.micro_f1),
        "classification_f1_macro": Metric(agreement, labels.macro_f1),
    }


def _named(answer: str) -> dict[str, int]:
    """The labels in the list after the last colon. A part that is no label's name states nothing (method.md 12, 20)."""
    parts = {part.strip(" .\n").lower() for part in answer.rpartition(":")[2].split(",")}
    return {name: 1 for name in CHEXPERT_LABELS if name.lower() in parts}


def unreadable(row: Prediction) -> bool:
    """Whether a prediction could not be read as an answer to its task; it stays in every mean, as a miss."""
    if row.task == "grounding":
        return not boxes.parse(row.answer) and not boxes.says_none(row.answer)
    if row.task == "classification":
        return not _named(row.answer)
    return not row.answer
