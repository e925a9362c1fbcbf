"""The layout of the answers of each task: one layout for training, rollout and evaluation. Prompts: `prompt_set`."""

from collections.abc import Sequence
from typing import Literal

from diagcot.data.study import Box

IMAGE = "<image>"


def with_image_tags(prompt: str, images: int) -> str:
    """A prompt that starts with `<image>`, with as many of these tags as it has images."""
    return IMAGE * (images - prompt.count(IMAGE)) + prompt


def report_answer(findings: str, impression: str) -> str:
    """DiagCoT's layout of a report, one line in lower case: `findings : ... . impression : ... .`

    Source: the report data of github.com/TMLSIAT/DiagCoT-main (DiagCoT, arXiv:2509.06409).
    """
    parts = []
    for name, text in (("findings", findings), ("impression", impression)):
        line = " ".join(text.lower().split()).rstrip(" .")
        if line:
            parts.append(f"{name} : {line} .")
    return " ".join(parts)


def report_text(findings: str, impression: str) -> str:
    """A report as people write it, one line with headings: `Findings: … Impression: …`; empty sections are left out."""
    sections = (("Findings", findings), ("Impression", impression))
    return " ".join(f"{name}: {' '.join(text.split())}" for name, text in sections if text.strip())


Layout = Literal["default", "diagcot"]
"""Layout of labels and boxes in answers: this project's, or exactly that of DiagCoT's data."""


def classification_answer(labels: Sequence[str], layout: Layout = "default") -> str:
    """The sentence that lists the labels of an image. Of an image without any: `No Finding`, or DiagCoT's own sentence.

    Source of `diagcot`: the classification data of github.com/TMLSIAT/DiagCoT-main (DiagCoT, arXiv:2509.06409).
    """
    if layout == "diagcot":
        named = ", ".join(label.lower() for label in labels if label != "No Finding")
        return f"The label of this X-ray image is:{named}" if named else "No significant abnormalities were found"
    return "The label of this X-ray image is: " + ", ".join(labels or ["No Finding"])


def grounding_answer(label: str, boxes: Sequence[Box], layout: Layout = "default") -> str:
    """The sentence that lists boxes, with corners as integers from 0 to 1000. `diagcot` repeats the label for each box.

    Source of `diagcot`: the grounding data of github.com/TMLSIAT/DiagCoT-main (DiagCoT, arXiv:2509.06409).
    """
    none = f"No {label} regions detected."
    if not boxes:
        return f"The detected {label} regions are: {none}" if layout == "diagcot" else none
    named = f"{label.title()}: " if layout == "diagcot" else ""
    texts = [
        f"{named}<box>({round(b.x1 * 1000)},{round(b.y1 * 1000)}),({round(b.x2 * 1000)},{round(b.y2 * 1000)})</box>"
        for b in boxes
    ]
    return f"The detected {label} regions are: " + ", ".join(texts)


def reasoned(think: str, answer: str) -> str:
    """One block of reasoning followed by one answer block."""
    return f"<think>{think}</think>\n<answer>{answer}</answer>"
