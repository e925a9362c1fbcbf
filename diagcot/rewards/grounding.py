"""Reward of boxes: DiagCoT's thresholded IoU, and a matched IoU that counts misses and false alarms."""

from diagcot.data.prompts import answer_of
from diagcot.metrics import boxes
from diagcot.rewards import layout
from diagcot.rewards.score import Reference, Score

_FORMAT, _IOU = 0.2, 0.8


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


def released(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """0.2 format + 0.8 iou, iou 1 for the exact answer, for two negatives, or for a mean matched IoU of at least 0.5.

    The release turned a negative sentence into a box of its own and so paid in full for that phantom box on normal
    films (method.md 5.3). Here a negative has no box: a box on a normal film and a missed box earn 0.
    """
    answer, truth = answer_of(output), answer_of(reference.answer)
    ours = [box for box in boxes.parse(answer) if boxes.well_formed(box)]
    theirs = boxes.parse(truth)
    if answer == truth:
        iou = 1.0
    elif not ours and not theirs:
        iou = float(boxes.says_none(answer))
    elif not ours or not theirs:
        iou = 0.0
    else:
        # The mean over matched pairs alone: matched_iou divides by the larger number of boxes.
        mean = boxes.matched_iou(ours, theirs) * max(len(ours), len(theirs)) / min(len(ours), len(theirs))
        iou = float(mean >= 0.5)
    return _score(_format(output, layout.single_as_released(output)), iou)


def matched(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """0.2 format + 0.8 matched IoU: the best one-to-one matching over the larger number of boxes.

    Missed boxes and false alarms both cost, malformed boxes count as claimed, and the reward is graded, so a group of
    rollouts that are all wrong still differ.
    """
    return _score(
        _format(output, layout.single(output)), boxes.score(answer_of(output), boxes.parse(answer_of(reference.answer)))
    )
