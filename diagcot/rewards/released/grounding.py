"""DiagCoT's rewards of boxes: improved_medical_grounding_reward.py and, `graded`, medical_grounding_reward.py."""

import re
from collections.abc import Sequence

import numpy as np

from diagcot.data.study import Box
from diagcot.metrics.boxes import iou
from diagcot.rewards.released import layout
from diagcot.rewards.score import Reference, Score

PHANTOM = Box("", 0.0, 0.0, 0.1, 0.1)
"""The box that the release reads out of a text that speaks of an opacity and has no box."""

_BOX = re.compile(r"<box>\(([0-9.]+),([0-9.]+)\),\(([0-9.]+),([0-9.]+)\)</box>")
_NOTHING = ("no lesion", "normal", "no abnormality")
_SOMETHING = ("lung opacity", "detected", "lesion", "abnormality")
_LINE = ((0, 0.1, 0.3, 0.5, 0.7, 0.9), (0.05, 0.1, 0.2, 0.4, 0.7, 1.0))  # mean IoU, reward


def released(output: str, reference: Reference, progress: float = 0.0, *, graded: bool = False) -> Score:
    """0.2 format + 0.8 iou. iou is 1 for the exact answer, otherwise 1 if the mean IoU of the overlapping pairs is at
    least 0.5; `graded`: a broken line through the mean IoU instead of the threshold.

    The negative sentence that the release asks for counts as a box in the corner, so that box earns everything on a normal
    image. A number that cannot be read, and an output without an answer block, earn no iou.
    """
    answer, truth = layout.answer(output.strip()), reference.answer.strip()
    try:
        value = 0.0 if answer is None else _value(answer, truth, graded)
    except ValueError:  # a number like 1.2.3, at which the release gives up, too
        value = 0.0
    in_layout = _format(answer or "") if layout.is_single(output.strip()) else 0.0
    return {"overall": 0.2 * in_layout + 0.8 * value, "format": in_layout, "iou": value}


def boxes(text: str) -> list[Box]:
    """Boxes without blanks between their corners, as fractions of the image; corners in any order.

    A box with a coordinate beyond 1000, or without area, is left out. Raises ValueError for a number like 1.2.3.
    """
    found = []
    for match in _BOX.findall(text):
        x1, y1, x2, y2 = corners = [float(number) for number in match]
        if max(corners) > 1:
            x1, y1, x2, y2 = (number / 1000 for number in corners)
        if max(x1, y1, x2, y2) <= 1 and x1 != x2 and y1 != y2:
            found.append(Box("", min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
    return found


def _claimed(text: str) -> list[Box]:
    found = boxes(text)
    speaks = not says_nothing(text) and any(word in text.lower() for word in _SOMETHING)
    return found or ([PHANTOM] if speaks else [])


def says_nothing(text: str) -> bool:
    """True if the text has one of the release's words for nothing; "abnormal" contains one of them."""
    return any(word in text.lower() for word in _NOTHING)


def _value(answer: str, truth: str, graded: bool) -> float:
    if answer and answer == truth:
        return 1.0
    ours, theirs = _claimed(answer), _claimed(truth)
    if not ours and not theirs:
        return _both_empty(says_nothing(answer), says_nothing(truth), graded)
    if not ours or not theirs:
        return 0.05 if graded and ours else 0.0
    overlaps = _overlaps(ours, theirs)
    mean, best = (float(np.mean(overlaps)), max(overlaps)) if overlaps else (0.0, 0.0)
    return _graded(mean, best, len(theirs)) if graded else float(mean >= 0.5)


def _overlaps(ours: Sequence[Box], theirs: Sequence[Box]) -> list[float]:
    """IoU of the pairs of the best one-to-one matching; pairs that do not overlap are left out."""
    from scipy.optimize import linear_sum_assignment  # half a second, needed only if there are boxes

    table = iou(ours, theirs)
    return [float(value) for value in table[linear_sum_assignment(1 - table)] if value > 0]


def _both_empty(ours: bool, theirs: bool, graded: bool) -> float:
    if not graded:
        return float(ours and theirs)
    if ours:
        return 0.8 if theirs else 0.1
    return 0.2 if theirs else 0.3


def _graded(mean: float, best: float, truths: int) -> float:
    value = float(np.interp(mean, *_LINE)) if mean > 0 else 0.02
    if truths > 1:
        value = 0.7 * value + 0.3 * best
    return min(1.0, value + 0.05 * (mean > 0.8))


def _format(answer: str) -> float:
    """1 for a well-formed box or words for nothing, 0.5 for malformed boxes."""
    if _BOX.search(answer) or says_nothing(answer) or "no lung opacity regions detected" in answer.lower():
        return 1.0
    return 0.5 if "<box>" in answer and "</box>" in answer else 0.0
