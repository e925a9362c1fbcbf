"""The facts of an answer in any layout: a report, a list of labels, boxes, or a list of findings."""

import re
from collections.abc import Sequence

from diagcot.data.reports.facts import Facts
from diagcot.data.reports.statement_phrases import PLACED
from diagcot.data.reports.statements import Statement
from diagcot.data.study import CHEXPERT_LABELS, Box
from diagcot.text import boxes, labels

_HEADING = re.compile(r"\b(findings|impression)\s*:", re.IGNORECASE)
_MIDDLE = 0.5  # of the width: the patient's right is on the left of the image


def sections(report: str) -> dict[str, str]:
    """Findings and impression of a report in the layout of an answer; a section that it lacks is left out."""
    parts = _HEADING.split(report)
    return {name.lower(): text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def of_boxes(name: str, found: Sequence[Box]) -> Facts:
    """The facts of the boxes of a finding: present, on the side of each box; absent where there is no box.

    The image is frontal, with the patient's right on its left. A box across the middle names no side.
    """
    if not found:
        return Facts.given([Statement(name, 0)])
    placed = name in PLACED and not any(box.x1 < _MIDDLE < box.x2 for box in found)
    device = "device" if name == "Support Devices" else ""
    sides = dict.fromkeys("right" if box.x2 <= _MIDDLE else "left" for box in found) if placed else {"": None}
    return Facts.given([Statement(name, 1, side, device=device) for side in sides])


def of_answer(task: str, answer: str, name: str = "") -> Facts:
    """The facts of an answer. name: the CheXpert label that a grounding task asks for."""
    if task == "classification":
        return Facts.of_labels(dict.fromkeys(sorted(labels.chexpert(answer)), 1))
    if task == "grounding":
        claimed = boxes.claimed(answer)
        if claimed is None:
            return Facts.given([])
        return of_boxes(name, [box for box in claimed if boxes.is_well_formed(box)])
    if task == "open":
        return Facts.of_labels({found: 1 for found in labels.findings(answer) if found in CHEXPERT_LABELS})
    return Facts.of(answer)
