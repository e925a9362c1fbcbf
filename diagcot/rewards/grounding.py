"""Reward of boxes: DiagCoT's thresholded IoU, and a matched IoU that counts misses and false alarms."""

import re

import numpy as np

from diagcot.data.study import Box
from diagcot.metrics import boxes
from diagcot.rewards import layout
from diagcot.rewards.score import Reference, Score
from diagcot.tasks.prompts import answer_of

_FORMAT, _IOU = 0.2, 0.8
_PHANTOM = Box("", 0.0, 0.0, 0.1, 0.1)
_LINE = ((0, 0.1, 0.3, 0.5, 0.7, 0.9), (0.05, 0.1, 0.2, 0.4, 0.7, 1.0))  # mean IoU, reward
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_PIXELS = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")


def _format(output: str, well_laid: bool) -> float:
    """1 for a well-formed box or a statement that there is none, 0.5 for malformed boxes, inside the right layout."""
    if not well_laid:
        return 0.0
    answer = answer_of(output)
    found = boxes.parse(answer)
    if any(boxes.well_formed(box) for box in found) or (not found and boxes.says_none(answer)):
        return 1.0
    return 0.5 if found or "box>" in answer else 0.0


def _score(form: float, iou: float) -> Score:
    return {"overall": _FORMAT * form + _IOU * iou, "format": form, "iou": iou}


def _boxes_as_released(text: str) -> list[Box]:
    """The boxes of a text; one in the corner for a sentence that says there is none, as the release has it."""
    found = [box for box in boxes.parse(text) if boxes.well_formed(box)]
    return found or ([_PHANTOM] if boxes.says_none(text) else [])


def released(output: str, reference: Reference, progress: float = 0.0, *, graded: bool = False) -> Score:
    """0.2 format + 0.8 iou as DiagCoT released it (method.md 5.3), its phantom box included.

    iou is 1 for the exact answer, else whether the mean IoU of the matched pairs is at least 0.5. A negative sentence
    counts as a box in the corner, so that box earns everything on a normal film. `graded` is the earlier function: a
    broken line through the mean IoU instead of the threshold.
    """
    answer, truth = answer_of(output), answer_of(reference.answer)
    ours, theirs = _boxes_as_released(answer), _boxes_as_released(truth)
    if answer == truth:
        iou = 1.0
    elif not ours or not theirs:
        iou = 0.0 if theirs or ours else float(not graded)
        iou = 0.05 if graded and ours else iou
    else:
        from scipy.optimize import linear_sum_assignment  # as in `diagcot.metrics.boxes`

        table = boxes.iou(ours, theirs)
        found = table[linear_sum_assignment(table, maximize=True)]
        mean, best = float(found.mean()), float(table.max())
        iou = _graded(mean, best, len(theirs)) if graded else float(mean >= 0.5)
    return _score(_format(output, layout.single_as_released(output)), iou)


def _graded(mean: float, best: float, truths: int) -> float:
    value = float(np.interp(mean, *_LINE)) if mean > 0 else 0.02
    if truths > 1:
        value = 0.7 * value + 0.3 * best
    return min(1.0, value + 0.05 * (mean > 0.8))


def matched(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """0.2 format + 0.8 matched IoU: the best one-to-one matching over the larger number of boxes.

    Missed boxes and false alarms both cost, malformed boxes count as claimed, and the reward is graded, so a group of
    rollouts that are all wrong still differ.
    """
    return _score(
        _format(output, layout.single(output)), boxes.score(answer_of(output), boxes.parse(answer_of(reference.answer)))
    )


def pixels(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """0.2 format + 0.8 matched IoU of CX-Mind's boxes `[x1, y1, x2, y2]` in pixels (method.md 7.2).

    Both sides are in pixels of the same film, so its size is not needed. Any other answer has no box.
    """
    answer = answer_of(output)
    ours, theirs = _pixel_boxes(answer), _pixel_boxes(answer_of(reference.answer))
    if not theirs:
        raise ValueError("the reference of a question about pixels has no box [x1, y1, x2, y2]")
    good = any(boxes.well_formed(box) for box in ours)
    form = (1.0 if good else 0.5 if ours else 0.0) if layout.single(output) else 0.0
    return _score(form, boxes.matched_iou(ours, theirs))


def _pixel_boxes(text: str) -> list[Box]:
    corners = [[float(number) for number in numbers] for numbers in _PIXELS.findall(text)]
    return [Box("", x1, y1, x2, y2) for x1, y1, x2, y2 in corners]
