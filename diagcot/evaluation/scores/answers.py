"""Scores of CX-Mind's questions (arXiv:2508.03733): the option of a closed one, the findings of an open one."""

from collections.abc import Sequence

import numpy as np

from diagcot.evaluation.failures import failed
from diagcot.metrics.intervals import Metric, mean
from diagcot.metrics.sets import f1
from diagcot.tasks.predictions import Prediction
from diagcot.text.labels import findings
from diagcot.text.layout import is_interleaved, pairs
from diagcot.text.options import chosen

RECALL_AT = (1, 3, 5)


def closed_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """Accuracy of the chosen option; an answer that names none, or several, is a miss."""
    correct = [chosen(row.answer, row.about["options"]) == row.about["option"] for row in rows]
    return {f"{rows[0].task}_accuracy": mean(np.array(correct, dtype=np.float64)), **_interleaved(rows)}


def open_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """Set F1, exact sets, and recall among the first k findings of the list, all by sample; synonyms count as one."""
    answers = [(findings(row.answer), findings(row.reference)) for row in rows]
    there = ~failed(rows)
    exact = np.array([set(ours) == set(theirs) for ours, theirs in answers])
    return {
        "open_f1": mean(np.array([f1(set(ours), set(theirs)) for ours, theirs in answers]) * there),
        "open_exact": mean((exact & there).astype(np.float64)),
        **{
            f"open_recall_{k}": mean(
                [len(set(ours[:k]) & set(theirs)) / max(1, len(theirs)) for ours, theirs in answers]
            )
            for k in RECALL_AT
        },
        **_interleaved(rows),
    }


def _interleaved(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """Share of the replies that consist of several think-answer pairs and nothing else, whatever they say."""
    found = [is_interleaved(row.output) and len(pairs(row.output)) > 1 for row in rows]
    return {f"{rows[0].task}_interleaved": mean(np.array(found, dtype=np.float64))}
