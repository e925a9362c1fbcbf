"""Scores of the reasoning before an answer: factuality, completeness, effectiveness, by the reader of statements."""

from collections.abc import Sequence

import numpy as np

from diagcot.metrics.intervals import Additive, Metric, mean_of
from diagcot.metrics.reasoning import FIGURES
from diagcot.tasks.predictions import Prediction
from diagcot.text.reasoning import TASKS, of_output, thought


def reasoning_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """Means over the samples whose reference states something; an output without a reasoning has 0, where others have one."""
    task = rows[0].task
    if task not in TASKS:
        return {}
    if not any(thought(row.output) for row in rows):
        return {}
    scored = [of_output(task, row.output, row.reference, row.about) for row in rows]
    if not any(scored):
        return dict.fromkeys((f"{task}_{name}" for name in FIGURES), "no reference states a finding")
    found: dict[str, Metric | str] = {}
    for name in FIGURES:
        counts = [(getattr(one, name), 1.0) if one else (0.0, 0.0) for one in scored]
        found[f"{task}_{name}"] = Additive(np.array(counts, dtype=np.float64), mean_of)
    return found
