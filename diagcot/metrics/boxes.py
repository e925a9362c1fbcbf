"""Boxes in generated text, and how well they cover the reference boxes."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diagcot.data.study import Box

Array = NDArray[np.float64]

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_POINT = rf"\({_NUMBER},{_NUMBER}\)"
_OPENING = re.compile(r"<box>", re.IGNORECASE)
_BOX = re.compile(rf"<box>\s*{_POINT}\s*,?\s*{_POINT}\s*</box>", re.IGNORECASE)
_NEGATIVE = re.compile(
    r"\b(?:no|not|without|absence of)\b[^.<]*"
    r"\b(?:detected|seen|found|visible|present|identified|evident|regions?|findings?)\b",
    re.IGNORECASE,
)


def parse(text: str) -> list[Box]:
    """The boxes `<box>(x1,y1),(x2,y2)</box>` of a text, in its order, corners as fractions of the film.

    Coordinates are 0 to 1000 (method.md 2.4); where all four carry a decimal point and are at most 1 they are fractions
    already. An opening tag that no well-formed box follows, and corners in the wrong order, give a box without area: it
    still counts as claimed, and can match nothing.
    """
    boxes = []
    for opening in _OPENING.finditer(text):
        found = _BOX.match(text, opening.start())
        if not found:
            boxes.append(Box("", 0.0, 0.0, 0.0, 0.0))
            continue
        numbers = [float(number) for number in found.groups()]
        fractions = all("." in number for number in found.groups()) and max(numbers) <= 1
        x1, y1, x2, y2 = (min(1.0, number if fractions else number / 1000) for number in numbers)
        boxes.append(Box("", x1, y1, x2, y2))
    return boxes


def well_formed(box: Box) -> bool:
    """Whether a parsed box has an area."""
    return box.x1 < box.x2 and box.y1 < box.y2


def says_none(text: str) -> bool:
    """Whether a text without boxes states that there is nothing to find, as opposed to being unreadable."""
    return not _OPENING.search(text) and _NEGATIVE.search(text) is not None


def _table(boxes: Sequence[Box]) -> Array:
    return np.array([(box.x1, box.y1, box.x2, box.y2) for box in boxes], dtype=np.float64).reshape(-1, 4)


def iou(ours: Sequence[Box], theirs: Sequence[Box]) -> Array:
    """Intersection over union of every pair, (len(ours), len(theirs)), 0 to 1; 0 for a box without area."""
    a, b = _table(ours)[:, None], _table(theirs)[None, :]
    shared = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    overlap = np.clip(shared, 0, None).prod(axis=-1)

    def area(table: Array) -> Array:
        size: Array = np.clip(table[..., 2:] - table[..., :2], 0, None).prod(axis=-1)
        return size

    union = area(a) + area(b) - overlap
    ratio: Array = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return ratio


def matched_iou(ours: Sequence[Box], theirs: Sequence[Box]) -> float:
    """Summed IoU of the best one-to-one matching over the larger number of boxes, 0 to 1; 1 where both sides have none.

    So a missed box and a false alarm both cost, unlike the mean over pairs of DiagCoT's release (method.md 12, 20).
    """
    if not ours and not theirs:
        return 1.0
    if not ours or not theirs:
        return 0.0
    from scipy.optimize import linear_sum_assignment  # half a second, which those without boxes need not wait for

    table = iou(ours, theirs)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / max(len(ours), len(theirs)))


def score(text: str, theirs: Sequence[Box]) -> float:
    """Matched IoU of an answer's boxes. An answer that neither gives a box nor says that there is none scores 0."""
    ours = parse(text)
    if not ours and not says_none(text):
        return 0.0
    return matched_iou(ours, theirs)


def pairs_iou_as_released(ours: Sequence[Box], theirs: Sequence[Box]) -> float | None:
    """Mean IoU over all pairs; None where either side has no box: the release leaves those out (method.md 6.4)."""
    if not ours or not theirs:
        return None
    return float(iou(ours, theirs).mean())
