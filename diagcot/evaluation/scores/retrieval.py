"""Scores of retrieval: recall of the report of an image, of the image of a report, and the mean of both."""

from collections.abc import Sequence

import numpy as np

from diagcot.metrics.intervals import Metric, mean
from diagcot.tasks.predictions import Prediction

RETRIEVED = (1, 5, 10)


def retrieval_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """Recall at 1, 5 and 10: the share of samples whose own side is among the k nearest candidates."""
    report, image = (np.array([row.about[name] for row in rows]) for name in ("report_rank", "image_rank"))
    found: dict[str, Metric | str] = {}
    for k in RETRIEVED:
        found[f"retrieval_recall_{k}"] = mean(((report <= k).astype(float) + (image <= k)) / 2)
        found[f"retrieval_report_recall_{k}"] = mean((report <= k).astype(float))
        found[f"retrieval_image_recall_{k}"] = mean((image <= k).astype(float))
    return found
