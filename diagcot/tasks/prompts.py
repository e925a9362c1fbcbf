"""The layout of the answers of each task: one layout for training, rollout and evaluation. Prompts: `prompt_set`."""

from collections.abc import Sequence

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


def classification_answer(labels: Sequence[str]) -> str:
    """DiagCoT's sentence that lists the labels of an image; `No Finding` where there is none."""
    return "The label of this X-ray image is: " + ", ".join(labels or ["No Finding"])


def grounding_answer(label: str, boxes: Sequence[Box]) -> str:
    """DiagCoT's sentence that lists boxes, with corners as integers from 0 to 1000.

    Source: the grounding data of github.com/TMLSIAT/DiagCoT-main (DiagCoT, arXiv:2509.06409).
    """
    if not boxes:
        return f"No {label} regions detected."
    texts = [
        f"<box>({round(b.x1 * 1000)},{round(b.y1 * 1000)}),({round(b.x2 * 1000)},{round(b.y2 * 1000)})</box>"
        for b in boxes
    ]
    return f"The detected {label} regions are: " + ", ".join(texts)


def reasoned(think: str, answer: str) -> str:
    """One block of reasoning followed by one answer block."""
    return f"<think>{think}</think>\n<answer>{answer}</answer>"
