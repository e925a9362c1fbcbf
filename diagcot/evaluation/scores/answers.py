"""Scores of CX-Mind's questions (arXiv:2508.03733): the option of a closed one, the findings of an open one."""

from collections.abc import Sequence

import numpy as np

from diagcot.metrics.intervals import Metric, mean
from diagcot.metrics.sets import f1
from diagcot.tasks.predictions import Prediction
from diagcot.text.labels import findings
from diagcot.text.options import chosen

RECALL_AT = (1, 3, 5)


def closed_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """Accuracy of the chosen option; an answer that names none, or several, is a miss."""
    correct = [chosen(row.answer, row.about["options"]) == row.about["option"] for row in rows]
    return {f"{rows[0].task}_accuracy": mean(np.array(correct, dtype=np.float64))}


def open_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """Set F1, exact sets, and recall among the first k findings of the list, all by sample; synonyms count as one."""
    pairs = [(findings(row.answer), findings(row.reference)) for row in rows]
    exact = [set(ours) == set(theirs) for ours, theirs in pairs]
    return {
        "open_f1": mean([f1(set(ours), set(theirs)) for ours, theirs in pairs]),
        "open_exact": mean(np.array(exact, dtype=np.float64)),
        **{
            f"open_recall_{k}": mean([len(set(ours[:k]) & set(theirs)) / max(1, len(theirs)) for ours, theirs in pairs])
            for k in RECALL_AT
        },
    }
