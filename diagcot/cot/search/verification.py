"""What a rule decides better than a model: labels against gold labels, boxes against gold boxes.

Both return what is wrong with a conclusion, in words for the next prompt, or an empty text.
"""

from collections.abc import Callable

from diagcot.cot.search.case import Case
from diagcot.metrics.boxes import matched_iou
from diagcot.text import boxes
from diagcot.text.labels import chexpert


def classification(conclusion: str, case: Case, iou: float) -> str:
    """Right if the labels are the gold ones; those that the gold labels leave in doubt may be there or not."""
    said, gold = ({name.lower() for name in chexpert(text)} for text in (conclusion, case.reference))
    doubted = {name.lower() for name, value in case.meta.get("labels", {}).items() if value == -1}
    missing, surplus = sorted(gold - said), sorted(said - gold - doubted)
    faults = [f"it misses {', '.join(missing)}"] if missing else []
    return " and ".join(faults + ([f"it has {', '.join(surplus)} too many"] if surplus else []))


def grounding(conclusion: str, case: Case, iou: float) -> str:
    """Right if the best matching of the boxes with the gold ones has a mean IoU of at least `iou`."""
    gold = boxes.parse(case.reference)
    reached = matched_iou(boxes.claimed(conclusion), gold)
    if reached >= max(iou, 1e-9):
        return ""
    if not gold:
        return "there is no such region"
    return f"its boxes agree with the right ones to {reached:.0%}, and there are {len(gold)}"


RULES: dict[str, Callable[[str, Case, float], str]] = {"classification": classification, "grounding": grounding}
"""Task -> its rule. A report has none: the verifier reads its conclusion."""
