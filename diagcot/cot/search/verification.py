"""Verification by rule, where a rule is more reliable than a model: labels and boxes against the gold ones.

Both functions return what is wrong with a conclusion, in words for the next prompt, or an empty text.
"""

from collections.abc import Callable

from diagcot.cot.search.sample import CoTSample
from diagcot.metrics.boxes import matched_iou
from diagcot.text import boxes
from diagcot.text.labels import chexpert


def classification(conclusion: str, sample: CoTSample, iou: float) -> str:
    """Correct if the labels are the gold ones; labels that the gold labels leave uncertain may be present or absent."""
    stated, gold = ({name.lower() for name in chexpert(text)} for text in (conclusion, sample.reference))
    uncertain = {name.lower() for name, value in sample.meta.get("labels", {}).items() if value == -1}
    missing, extra = sorted(gold - stated), sorted(stated - gold - uncertain)
    faults = [f"it omits {', '.join(missing)}"] if missing else []
    return " and ".join(faults + ([f"it adds {', '.join(extra)}"] if extra else []))


def grounding(conclusion: str, sample: CoTSample, iou: float) -> str:
    """Correct if the best matching of the boxes with the gold ones has a mean IoU of at least `iou`, 0 to 1."""
    gold = boxes.parse(sample.reference)
    reached = matched_iou(boxes.claimed(conclusion), gold)
    if reached >= max(iou, 1e-9):
        return ""
    if not gold:
        return "there is no such region"
    return f"its boxes overlap the correct ones by {reached:.0%}, and there are {len(gold)}"


RULES: dict[str, Callable[[str, CoTSample, float], str]] = {"classification": classification, "grounding": grounding}
"""Task -> its rule. Reports have none: the verifier model reads their conclusion."""
