"""Every number of the table: its name, title and task, and which function makes it from predictions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from diagcot.evaluation.clinical.scores import CLINICAL, column_name
from diagcot.evaluation.failures import failed
from diagcot.evaluation.scores.answers import RECALL_AT, closed_metrics, open_metrics
from diagcot.evaluation.scores.classification import classification_metrics
from diagcot.evaluation.scores.grounding import grounding_metrics, pixel_metrics
from diagcot.evaluation.scores.reasoning import FIGURES, reasoning_metrics
from diagcot.evaluation.scores.reports import part_metrics, report_metrics
from diagcot.evaluation.scores.retrieval import RETRIEVED, retrieval_metrics
from diagcot.evaluation.settings import CLOSED, WRITTEN
from diagcot.metrics.intervals import LEAST_STUDIES, MACRO_STUDIES, Additive, Interval, Metric, mean
from diagcot.metrics.labels import kappa
from diagcot.tasks.predictions import Prediction
from diagcot.text import boxes
from diagcot.text.labels import chexpert, findings
from diagcot.text.options import chosen
from diagcot.text.reasoning import TASKS as REASONED

CONSTANT = "best constant answer"
"""The row of a table that no model has made: see `diagcot.evaluation.scores.constant`."""


@dataclass(frozen=True)
class Column:
    """A metric: its name in metrics.json, its title, the task it measures, and whether the short table has it."""

    name: str
    title: str
    task: str
    main: bool = True
    low: bool = False  # the lower the better
    interval: int | None = LEAST_STUDIES  # studies from which on its interval holds the true value; None: at no number
    bounds: tuple[float, float] | None = (0.0, 1.0)  # of its values

    def holds(self, studies: int) -> bool:
        """Whether intervals of so many studies hold the true value as often as they say."""
        return self.interval is not None and studies >= self.interval

    def shown(self, found: Interval, studies: int) -> dict[str, float | None]:
        """`value`, `low` and `high` within the bounds; no interval with too few studies, nor one of no width."""
        if not self.holds(studies) or not found.low < found.high:
            return {"value": found.value, "low": None, "high": None}
        least, most = self.bounds or (-inf, inf)
        return {"value": found.value, "low": max(found.low, least), "high": min(found.high, most)}


def _cider(name: str = "cider") -> dict[str, Any]:
    """What differs in a column of CIDEr, which a few reports of rare words decide in a small sample."""
    return {"interval": 60, "bounds": (0.0, 10.0)} if name == "cider" else {}


_PARTS = {
    "fg": "findings",
    "fg_i": "findings with indication",
    "fs": "summary",
    "ig": "impression",
    "ig_i": "impression with indication",
}

COLUMNS = (
    *(Column(f"bleu{n}", f"BLEU-{n}", "report") for n in (1, 2, 3, 4)),
    Column("meteor", "METEOR", "report"),
    Column("rouge_l", "ROUGE-L", "report"),
    Column("cider", "CIDEr", "report", **_cider()),
    Column("rule_label_f1", "rule-label F1", "report"),
    *(Column(name, c.title, "report", c.main, c.low, c.interval, c.bounds) for name, c in CLINICAL.items()),
    Column("iou", "grounding IoU", "grounding"),
    Column("auc", "AUC", "classification", interval=60),
    *(Column(f"retrieval_recall_{k}", f"recall@{k}", "retrieval") for k in RETRIEVED),
    *(Column(f"{task}_accuracy", task, task) for task in CLOSED),
    Column("open_f1", "open F1", "open"),
    *(Column(f"{task}_rouge_l", f"{task} ROUGE-L", task) for task in WRITTEN),
    Column("iou_pixels", "IoU, pixels", "grounding_pixels"),
    Column("rule_label_f1_macro", "rule-label F1, macro", "report", False, interval=MACRO_STUDIES),
    Column("rule_label_f1_five", "rule-label F1, five labels", "report", False),
    Column("rule_label_f1_five_macro", "rule-label F1, five labels, macro", "report", False, interval=MACRO_STUDIES),
    Column("rule_no_finding_f1", "F1 of No Finding by the rule labeler", "report", False),
    *(
        Column(f"bleu{n}_as_released", f"BLEU-{n}, mean of samples (as released)", "report", False)
        for n in (1, 2, 3, 4)
    ),
    *(
        Column(f"bleu{n}_method1", f"BLEU-{n}, mean of samples (NLTK's smoothing method 1)", "report", False)
        for n in (1, 2, 3, 4)
    ),
    Column("bleu2_rexrank", "BLEU-2, mean of samples (ReXrank's words)", "report", False),
    *(
        Column(f"{name}_r2gen", f"{title} (R2Gen's protocol)", "report", False, **_cider(name))
        for name, title in (
            *((f"bleu{n}", f"BLEU-{n}") for n in (1, 2, 3, 4)),
            *(("meteor", "METEOR"), ("rouge_l", "ROUGE-L"), ("cider", "CIDEr")),
        )
    ),
    *(Column(f"accuracy_{k}", f"grounding accuracy at IoU 0.{k // 10}", "grounding", False) for k in (30, 50, 70)),
    Column("iou_of_shown", "grounding IoU, images that show the finding", "grounding", False),
    Column("grounding_other_style", "grounding: boxes read in another style", "grounding", False, low=True),
    Column("iou_as_released", "IoU, mean over pairs (as released)", "grounding", False, interval=60),
    Column("auprc", "AUPRC", "classification", False, interval=None),
    Column("auc_head", "AUC, head labels", "classification", False, interval=60),
    *(
        Column(f"auc_{group}", f"AUC, {group} labels", "classification", False, interval=MACRO_STUDIES)
        for group in ("medium", "tail")
    ),
    Column("f1_at_thresholds", "F1 at thresholds of the validate split", "classification", False),
    Column(
        "f1_at_thresholds_macro",
        "F1 at thresholds of the validate split, macro",
        "classification",
        False,
        interval=MACRO_STUDIES,
    ),
    Column("calibration_error", "calibration error", "classification", False, low=True, interval=None),
    Column("brier", "Brier score", "classification", False, low=True, interval=60),
    Column("classification_f1", "classification F1, labels named", "classification", False),
    Column(
        "classification_f1_macro",
        "classification F1, labels named, macro",
        "classification",
        False,
        interval=MACRO_STUDIES,
    ),
    Column("balanced_accuracy", "balanced accuracy of labels named (AUC as released)", "classification", False),
    Column("open_exact", "open, exact set", "open", False),
    *(
        Column(f"{task}_interleaved", f"{task}: replies in the interleaved layout", task, False)
        for task in (*CLOSED, "open")
    ),
    *(Column(f"open_recall_{k}", f"open recall@{k}", "open", False) for k in RECALL_AT),
    *(
        Column(f"{task}_{name}", f"{title} of the {_PARTS[task]}", task, False, **_cider(name))
        for task in WRITTEN
        for name, title in (
            ("bleu4", "BLEU-4"),
            ("meteor", "METEOR"),
            ("cider", "CIDEr"),
            ("rule_label_f1", "rule-label F1"),
        )
    ),
    *(
        Column(column_name(task, name), f"{c.title} of the {_PARTS[task]}", task, False, c.low, c.interval, c.bounds)
        for task in WRITTEN
        for name, c in CLINICAL.items()
    ),
    *(Column(f"{task}_judged", f"{task}, by the judge", task, False) for task in (*CLOSED, "open")),
    *(
        Column(f"{task}_judge_agreement", f"{task}, the judge agrees with itself", task, False)
        for task in (*CLOSED, "open")
    ),
    *(
        Column(f"{task}_judge_kappa", f"{task}, judge and rule beyond chance (kappa)", task, False, bounds=(-1.0, 1.0))
        for task in (*CLOSED, "open")
    ),
    *(Column(f"retrieval_report_recall_{k}", f"recall@{k}, report of an image", "retrieval", False) for k in RETRIEVED),
    *(Column(f"retrieval_image_recall_{k}", f"recall@{k}, image of a report", "retrieval", False) for k in RETRIEVED),
    *(
        Column(f"{task}_{name}", f"{task}: {name} of the reasoning", task, False)
        for task in REASONED
        for name in FIGURES
    ),
    Column("accuracy_pixels_50", "accuracy in pixels at IoU 0.5", "grounding_pixels", False),
)

FAMILY = {
    "report": "reports",
    **dict.fromkeys(("grounding", "classification"), "boxes and labels"),
    **dict.fromkeys(WRITTEN, "parts of reports"),
    "retrieval": "retrieval",
}
"""Task -> the heading under which tables show its columns; every other task is a question."""

_SCORERS = {
    "grounding": grounding_metrics,
    "grounding_pixels": pixel_metrics,
    "open": open_metrics,
    "retrieval": retrieval_metrics,
}
_OF_WORDS = re.compile(r"(?:\w+_)?(?:bleu\d|meteor|rouge_l|cider)(?:_as_released|_method1)?")
BY_NAME = {column.name: column for column in COLUMNS}
LOW = frozenset(column.name for column in COLUMNS if column.low)
TEXTS = ("report", *WRITTEN)
"""Tasks whose answers are tokenised and get METEOR."""


def of_words(name: str) -> bool:
    """Whether a column depends on how texts are split into words. R2Gen's protocol has its own rules."""
    return _OF_WORDS.fullmatch(name) is not None


def measured(
    rows: Sequence[Prediction], validation: Sequence[Prediction], words: Mapping[str, str]
) -> dict[str, Metric | str]:
    """The scores of one model's rows of one task, METEOR aside: a metric, or the reason why it has no value.

    words: text -> its tokens, of the tasks in TEXTS.
    """
    return _answers(rows, validation, words) | reasoning_metrics(rows)


def _answers(
    rows: Sequence[Prediction], validation: Sequence[Prediction], words: Mapping[str, str]
) -> dict[str, Metric | str]:
    task = rows[0].task
    if task == "report":
        return report_metrics(rows, words)
    if task in WRITTEN:
        return part_metrics(rows, words)
    if task == "classification":
        return classification_metrics(rows, validation)
    return _SCORERS.get(task, closed_metrics)(rows)


def agree(verdicts: Sequence[bool | None]) -> bool:
    """Whether the judge's two judgements of an answer are there and say the same."""
    return verdicts[0] is not None and verdicts[0] == verdicts[1]


def judged_metrics(
    rows: Sequence[Prediction], verdicts: Mapping[str, Sequence[bool | None]]
) -> dict[str, Metric | str]:
    """Of one model's closed or open answers: how many the judge takes for right in either order of the two texts, how
    often its two judgements agree, and Cohen's kappa of judge and rule. verdicts: sample id -> its two judgements,
    None where one could not be read.

    A sample that was not judged counts as wrong, and as one on which the judge does not agree with itself. On a request
    that failed judge and rule do not agree.
    """
    task = rows[0].task
    both = [verdicts.get(row.id, (None, None)) for row in rows]
    said = np.array([all(pair) for pair in both])
    rule = np.array([_right(row) for row in rows])
    lost = failed(rows)
    cells = (said & rule & ~lost, (said & ~rule) | lost, ~said & rule & ~lost, ~(said | rule | lost))
    table = np.stack(cells, axis=-1).astype(np.float64)
    return {
        f"{task}_judged": mean(said.astype(np.float64)),
        f"{task}_judge_agreement": mean([float(agree(pair)) for pair in both]),
        f"{task}_judge_kappa": Additive(table, kappa),
    }


def _right(row: Prediction) -> bool:
    if row.task in CLOSED:
        return bool(chosen(row.answer, row.about["options"]) == row.about["option"])
    return set(findings(row.answer)) == set(findings(row.reference))


def meteor_column(task: str) -> str:
    """The name of METEOR's column of a task in metrics.json."""
    return "meteor" if task == "report" else f"{task}_meteor"


def unreadable(row: Prediction) -> bool:
    """Whether a prediction could not be read as an answer to its task; it stays in every mean, as a miss."""
    if row.task == "grounding":
        return boxes.claimed_in_any_style(row.answer)[0] is None
    if row.task == "grounding_pixels":
        return len(boxes.parse_pixels(row.answer)) != 1
    if row.task == "classification":
        return not chexpert(row.answer)
    if row.task in CLOSED:
        return not chosen(row.answer, row.about["options"])
    return not findings(row.answer) if row.task == "open" else not row.answer
