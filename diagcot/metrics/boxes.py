"""How well boxes cover the reference boxes: intersection over union (IoU)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diagcot.data import geometry
from diagcot.data.study import Box

Array = NDArray[np.float64]


def iou(ours: Sequence[Box], theirs: Sequence[Box]) -> Array:
    """Intersection over union of every pair, (len(ours), len(theirs)), 0 to 1; 0 for a box without area."""
    return geometry.iou([box.corners for box in ours], [box.corners for box in theirs])


def best_pairs(table: Array) -> Array:
    """IoU of the pairs in the one-to-one matching with the largest sum, (min(rows, columns),)."""
    from scipy.optimize import linear_sum_assignment  # half a second, needed only if there are boxes

    matched: Array = table[linear_sum_assignment(table, maximize=True)]
    return matched


def matched_iou(ours: Sequence[Box] | None, theirs: Sequence[Box]) -> float:
    """Sum of IoU over the best one-to-one matching, divided by the larger number of boxes, 0 to 1.

    1 if both sides have none; 0 for an answer that could not be read (`ours` is None, see `diagcot.text.boxes.claimed`).
    A missed box and a false alarm both cost, unlike the mean over all pairs in DiagCoT's release.
    """
    if ours is None:
        return 0.0
    if not ours and not theirs:
        return 1.0
    if not ours or not theirs:
        return 0.0
    return float(best_pairs(iou(ours, theirs)).sum() / max(len(ours), len(theirs)))


def soft_f1(ours: Sequence[Box] | None, theirs: Sequence[Box]) -> float:
    """F1 in which a hit counts by its IoU, over the best one-to-one matching, 0 to 1 (RadVLM-GRPO, arXiv:2512.10691).

    Recall is the IoU of the overlapping pairs over the number of reference boxes; precision is that IoU over itself and the
    number of our boxes that overlap none of theirs. 1 if both sides have no box, where the published function, whose images
    all have boxes, gives 0; 0 for an answer that could not be read (`ours` is None).
    """
    if ours is None:
        return 0.0
    if not ours or not theirs:
        return float(not ours and not theirs)
    pairs = best_pairs(iou(ours, theirs))
    hits = pairs[pairs > 0]
    hit = float(hits.sum())
    if not hit:
        return 0.0
    precision, recall = hit / (hit + len(ours) - len(hits)), hit / len(theirs)
    return 2 * precision * recall / (precision + recall)
