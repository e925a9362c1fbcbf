"""Overlap of boxes, for readers that merge the boxes of several raters and for the scores of grounding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def iou(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Array:
    """Intersection over union of every pair of boxes (x1, y1, x2, y2), (len(ours), len(theirs)), 0 to 1.

    0 for a box without area.
    """
    a, b = _corners(ours)[:, None], _corners(theirs)[None, :]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    overlap = np.clip(sides, 0, None).prod(axis=-1)
    union = _area(a) + _area(b) - overlap
    ratio: Array = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return ratio


def _corners(boxes: Sequence[Sequence[float]]) -> Array:
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def _area(corners: Array) -> Array:
    area: Array = np.clip(corners[..., 2:] - corners[..., :2], 0, None).prod(axis=-1)
    return area
