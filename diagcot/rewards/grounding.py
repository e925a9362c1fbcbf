"""Reward of boxes: DiagCoT's thresholded IoU (arXiv:2509.06409), and a matched IoU that counts misses and false alarms."""

import numpy as np

from diagcot.metrics.boxes import best_pairs, iou, matched_iou
from diagcot.rewards import released as published
from diagcot.rewards.score import Reference, Score
from diagcot.text import boxes, layout

_FORMAT, _IOU = 0.2, 0.8
_LINE = ((0, 0.1, 0.3, 0.5, 0.7, 0.9), (0.05, 0.1, 0.2, 0.4, 0.7, 1.0))  # mean IoU, reward


def released(output: str, reference: Reference, progress: float = 0.0, *, graded: bool = False) -> Score:
    """0.2 format + 0.8 iou as DiagCoT released it, its phantom box included.

    iou is 1 for the exact answer, otherwise 1 if the mean IoU of the matched pairs is at least 0.5. A negative sentence counts
    as a box in the corner, so that box earns everything on a normal image. `graded` is the release's earlier function: a
    broken line through the mean IoU instead of the threshold.
    """
    answer, truth = layout.first_answer(output), layout.first_answer(reference.answer)
    ours, theirs = published.grounding_boxes(answer), published.grounding_boxes(truth)
    if answer == truth:
        value = 1.0
    elif not ours or not theirs:
        value = 0.0 if theirs or ours else float(not graded)
        value = 0.05 if graded and ours else value
    else:
        table = iou(ours, theirs)
        mean, best = float(best_pairs(table).mean()), float(table.max())
        value = _graded(mean, best, len(theirs)) if graded else float(mean >= 0.5)
    return _score(_format(answer, published.is_single(output)), value)


def matched(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """0.2 format + 0.8 matched IoU: the best one-to-one matching over the larger number of boxes.

    Missed boxes and false alarms both cost, malformed boxes count as claimed, and the reward is graded, so the rollouts of a
    group differ even if all of them are wrong.
    """
    answer = layout.first_answer(output)
    truth = boxes.parse(layout.first_answer(reference.answer))
    return _score(_format(answer, layout.is_single(output)), matched_iou(boxes.claimed(answer), truth))


def pixels(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """0.2 format + 0.8 matched IoU of CX-Mind's boxes `[x1, y1, x2, y2]` in pixels (arXiv:2508.03733).

    Both sides are in pixels of the same image, so its size is not needed. Raises ValueError if the reference has no box.
    """
    ours, theirs = (boxes.parse_pixels(layout.first_answer(text)) for text in (output, reference.answer))
    if not theirs:
        raise ValueError("the reference of a question about pixels has no box [x1, y1, x2, y2]")
    box_score = 1.0 if any(boxes.is_well_formed(box) for box in ours) else 0.5 if ours else 0.0
    return _score(box_score if layout.is_single(output) else 0.0, matched_iou(ours, theirs))


def _format(answer: str, in_layout: bool) -> float:
    """1 for a well-formed box or a statement that there is none, 0.5 for malformed boxes, 0 outside the layout."""
    if not in_layout:
        return 0.0
    claimed = boxes.claimed(answer)
    if claimed is not None and (not claimed or any(boxes.is_well_formed(box) for box in claimed)):
        return 1.0
    return 0.5 if claimed or "box>" in answer else 0.0


def _graded(mean: float, best: float, truths: int) -> float:
    value = float(np.interp(mean, *_LINE)) if mean > 0 else 0.02
    if truths > 1:
        value = 0.7 * value + 0.3 * best
    return min(1.0, value + 0.05 * (mean > 0.8))


def _score(layout_score: float, value: float) -> Score:
    return {"overall": _FORMAT * layout_score + _IOU * value, "format": layout_score, "iou": value}
