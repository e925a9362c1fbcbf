"""Scores of boxes: the suite's own layout, 0 to 1000, and CX-Mind's four pixels of a film."""

import re
from collections.abc import Sequence

import numpy as np

from diagcot.evaluation.predictions import Prediction
from diagcot.metrics import boxes
from diagcot.metrics.intervals import Additive, Metric, mean, mean_of

LEAST = (0.3, 0.5, 0.7)  # IoU at which a sample counts as right (method.md 6.4)
_CORNERS = re.compile(r"\[\s*" + r"\s*,\s*".join([r"(-?\d+(?:\.\d+)?)"] * 4) + r"\s*\]")


def grounding_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """IoU of boxes with the reference's, misses and false alarms counted; an answer that cannot be read scores 0."""
    truth = [boxes.parse(row.reference) for row in rows]
    matched = np.array([boxes.score(row.answer, theirs) for row, theirs in zip(rows, truth, strict=True)])
    released = [
        boxes.pairs_iou_as_released(boxes.parse(r.answer), theirs) for r, theirs in zip(rows, truth, strict=True)
    ]
    shown = np.array([float(bool(theirs)) for theirs in truth])
    counts = np.array([[value or 0.0, float(value is not None)] for value in released]).reshape(-1, 2)
    return {
        "iou": mean(matched),
        "iou_of_shown": Additive(np.stack([matched * shown, shown], axis=-1), mean_of)
        if shown.any()
        else "no film shows it",
        **{f"accuracy_{round(100 * least)}": mean((matched >= least).astype(np.float64)) for least in LEAST},
        "iou_as_released": Additive(counts, mean_of) if counts[:, 1].any() else "no sample has boxes on both sides",
    }


def pixel_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """IoU of the one box `[x1, y1, x2, y2]` in pixels; several, none, or corners in the wrong order score 0."""
    values = np.array([_overlap(corners(row.answer), corners(row.reference)) for row in rows])
    return {"iou_pixels": mean(values), "accuracy_pixels_50": mean((values >= 0.5).astype(np.float64))}


def corners(answer: str) -> tuple[float, ...] | None:
    """The four numbers of the answer's only box, None where there is not exactly one."""
    found = _CORNERS.findall(answer)
    return tuple(map(float, found[0])) if len(found) == 1 else None


def _overlap(ours: tuple[float, ...] | None, theirs: tuple[float, ...] | None) -> float:
    if ours is None or theirs is None or ours[0] >= ours[2] or ours[1] >= ours[3]:
        return 0.0
    wide = min(ours[2], theirs[2]) - max(ours[0], theirs[0])
    high = min(ours[3], theirs[3]) - max(ours[1], theirs[1])
    shared = max(0.0, wide) * max(0.0, high)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (ours, theirs)]
    return shared / (sum(areas) - shared)
