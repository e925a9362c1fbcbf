"""Scores of boxes: the suite's own layout, 0 to 1000, and CX-Mind's corners in pixels (arXiv:2508.03733)."""

from collections.abc import Sequence

import numpy as np

from diagcot.evaluation.failures import failed
from diagcot.metrics.boxes import iou, matched_iou
from diagcot.metrics.intervals import Additive, Metric, mean, mean_of
from diagcot.rewards.released import grounding as released
from diagcot.rewards.released import layout
from diagcot.tasks.predictions import Prediction
from diagcot.text import boxes

LEAST = (0.3, 0.5, 0.7)
"""IoU from which a sample counts as correct, as in DiagCoT's evaluation scripts."""


def grounding_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """IoU of boxes with the reference's, misses and false alarms counted; an answer that cannot be read scores 0.

    Boxes in the styles of base models are read, too, so that a base model is not measured by the layout that training
    teaches; `grounding_other_style` is the share of such answers, and of requests that failed.
    """
    lost = failed(rows)
    read = [boxes.claimed_in_any_style(row.answer) for row in rows]
    pairs = [(ours, boxes.parse(row.reference)) for (ours, _), row in zip(read, rows, strict=True)]
    matched = np.array([matched_iou(ours, theirs) for ours, theirs in pairs])
    shown = np.array([float(bool(theirs)) for _, theirs in pairs])
    counts = np.array([_pairs_as_released(row) for row in rows]).reshape(-1, 2)
    return {
        "iou": mean(matched),
        "iou_of_shown": Additive(np.stack([matched * shown, shown], axis=-1), mean_of)
        if shown.any()
        else "no image shows the finding",
        **{f"accuracy_{round(100 * least)}": mean((matched >= least).astype(np.float64)) for least in LEAST},
        "grounding_other_style": mean(np.maximum([float(other) for _, other in read], lost)),
        "iou_as_released": Additive(counts, mean_of) if counts[:, 1].any() else "no sample has boxes on both sides",
    }


def _pairs_as_released(row: Prediction) -> tuple[float, float]:
    """Sum of IoU over all pairs of a predicted and a true box, and their number.

    As evaluate_grounding_cot_rft.py of TMLSIAT/DiagCoT-main: boxes of the first answer block of the output, otherwise of the
    whole output, blanks inside a box or a coordinate beyond 1000 make it none, and a sample without boxes on one side is left
    out. The mean over all pairs of all samples is the published IoU. A request that failed has one pair for each true box.
    """
    if row.finish == "error":
        return 0.0, float(len(boxes.parse(row.reference)))
    answer = layout.answer(row.output)
    try:
        ours, theirs = released.boxes(row.output if answer is None else answer), released.boxes(row.reference)
    except ValueError:  # a number like 1.2.3, at which the script ends
        return 0.0, 0.0
    table = iou(ours, theirs)
    return float(table.sum()), float(table.size)


def pixel_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """IoU of the one box `[x1, y1, x2, y2]` in pixels; several, none, or corners in the wrong order score 0."""
    pairs = [(boxes.parse_pixels(row.answer), boxes.parse_pixels(row.reference)) for row in rows]
    values = np.array([matched_iou(ours, theirs) if len(ours) == len(theirs) == 1 else 0.0 for ours, theirs in pairs])
    return {"iou_pixels": mean(values), "accuracy_pixels_50": mean((values >= 0.5).astype(np.float64))}
