"""Rewards of boxes: matched IoU, which counts misses and false alarms. The published ones are in `released.grounding`."""

from diagcot.data.study import Box
from diagcot.metrics.boxes import matched_iou, soft_f1
from diagcot.rewards.score import Reference, Score
from diagcot.text import boxes, layout


def matched(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """0.2 format + 0.8 matched IoU: the best one-to-one matching over the larger number of boxes, 0 to 1000.

    Missed boxes and false alarms both cost, malformed boxes count as claimed, and the reward is graded, so the rollouts of a
    group differ even if all of them are wrong.
    """
    claimed, truth = _boxes(output, reference)
    return _score(output, _readable(claimed), matched_iou(claimed, truth))


def overlap_f1(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """F1 of boxes in which a hit counts by its IoU (`metrics.boxes.soft_f1`), for the text in the answer block.

    RadVLM-GRPO's reward of boxes (arXiv:2512.10691, verl/custom_rewards/grounding_reward.py), 0 to 1. `format` is logged and
    is no part of it.
    """
    claimed, truth = _boxes(output, reference)
    value = soft_f1(claimed, truth) if layout.has_answer(output) else 0.0
    return {"overall": value, "format": _format(output, _readable(claimed)), "f1": value}


def pixels(output: str, reference: Reference, progress: float = 0.0) -> Score:
    """0.2 format + 0.8 matched IoU of CX-Mind's boxes `[x1, y1, x2, y2]` in pixels (arXiv:2508.03733).

    Both sides are in pixels of the same image, so its size is not needed. Raises ValueError if the reference has no box.
    """
    ours, theirs = (boxes.parse_pixels(layout.last_answer(text)) for text in (output, reference.answer))
    if not theirs:
        raise ValueError("the reference of a question about pixels has no box [x1, y1, x2, y2]")
    box_score = 1.0 if any(boxes.is_well_formed(box) for box in ours) else 0.5 if ours else 0.0
    return _score(output, box_score, matched_iou(ours, theirs))


def _boxes(output: str, reference: Reference) -> tuple[list[Box] | None, list[Box]]:
    return boxes.claimed(layout.first_answer(output)), boxes.parse(layout.first_answer(reference.answer))


def _readable(claimed: list[Box] | None) -> float:
    """1 for a well-formed box or a statement that there is none, 0.5 for malformed boxes."""
    readable = claimed is not None and (not claimed or any(boxes.is_well_formed(box) for box in claimed))
    return 1.0 if readable else 0.5 if claimed else 0.0


def _format(output: str, box_score: float) -> float:
    """box_score, see `_readable`, in the layout with a reasoning; elsewhere 0."""
    return box_score if layout.is_reasoned_single(output) else 0.0


def _score(output: str, box_score: float, value: float) -> Score:
    layout_score = _format(output, box_score)
    return {"overall": 0.2 * layout_score + 0.8 * value, "format": layout_score, "iou": value}
