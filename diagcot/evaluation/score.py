"""From predictions to scores: the metrics of every task as additive counts; without Java only METEOR is lost."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from diagcot.data.labeler import label
from diagcot.data.study import CHEXPERT_LABELS
from diagcot.evaluation.predictions import Prediction
from diagcot.jobs.files import append_line
from diagcot.metrics import boxes, java, labels, text, tokens
from diagcot.metrics.intervals import Metric, mean, mean_of
from diagcot.metrics.meteor import COUNTS, Meteor, meteor_of

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
class Java:
    """The two Java programs, used once for all models; `missing` says why a metric has no value."""

    cache: Path | None = None  # METEOR's counts by digest of the pair, one JSON object a line
    start_s: float = 180  # METEOR's until it is ready, and the tokeniser's for all texts
    tokenizer: str = "Penn Treebank"
    missing: dict[str, str] = field(default_factory=dict)
    _meteor: Meteor | None = None
    _counts: dict[str, list[float]] = field(default_factory=dict)

    def tokenize(self, texts: Sequence[str]) -> dict[str, str]:
        """Text -> its words, by one tokeniser for all: the Java one, or the simple one where there is no Java."""
        try:
            return dict(zip(texts, java.tokenize(texts, self.start_s), strict=True))
        except java.JavaError as error:
            self.tokenizer = "simple words"
            self.missing["tokenizer"] = str(error)
            return {text: tokens.words(text) for text in texts}

    def start_meteor(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Start METEOR in the background if there are pairs (text, reference) whose counts are not in the cache."""
        if self.cache and self.cache.exists():
            for line in self.cache.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                    self._counts[row["pair"]] = row["counts"]
                except (ValueError, LookupError, TypeError):
                    continue  # torn by a kill: counted again
        try:
            if any(_digest(pair) not in self._counts for pair in pairs):
                self._meteor = Meteor(self.start_s)
        except java.JavaError as error:
            self.missing["meteor"] = str(error)

    def finish_meteor(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Count all pairs; afterwards `meteor` answers, unless `missing` says why not."""
        new = [pair for pair in dict.fromkeys(pairs) if _digest(pair) not in self._counts]
        if not new or self._meteor is None:
            return
        try:
            with self._meteor as process:
                counts = process.counts([hyp for hyp, _ in new], [ref for _, ref in new])
        except java.JavaError as error:
            self.missing["meteor"] = str(error)
            return
        for pair, row in zip(new, counts.tolist(), strict=True):
            self._counts[_digest(pair)] = row
        if self.cache:
            rows = [json.dumps({"pair": _digest(pair), "counts": self._counts[_digest(pair)]}) for pair in new]
            append_line(self.cache, "\n".join(rows))

    def meteor(self, hyps: Sequence[str], refs: Sequence[str]) -> Metric | str:
        """METEOR of tokenised texts, or the reason why it has no value."""
        if "meteor" in self.missing:
            return self.missing["meteor"]
        rows = [self._counts[_digest(pair)] for pair in zip(hyps, refs, strict=True)]
        return Metric(np.array(rows, dtype=np.float64).reshape(-1, COUNTS), meteor_of)


def _digest(pair: tuple[str, str]) -> str:
    return hashlib.sha256("\n".join(pair).encode()).hexdigest()


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
