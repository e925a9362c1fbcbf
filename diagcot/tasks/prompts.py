"""What the model is asked in each task, and the layout of its answer: one wording for training, rollout, evaluation."""

import re
from collections.abc import Sequence

from diagcot.data.study import CHEXPERT_LABELS, Box

REPORT = "<image>Analyse this chest X-ray and write a diagnostic report."
CLASSIFICATION = (
    "<image>Which of these labels apply to this chest X-ray? "
    + ", ".join(CHEXPERT_LABELS)
    + ". Answer No Finding if none applies."
)
GROUNDING = (
    "<image>Detect the regions of {label} in this chest X-ray. Give each as <box>(x1,y1),(x2,y2)</box>, 0 to 1000."
)

PRESENCE = "<image>Does this chest X-ray show {label}? Answer Yes or No."
"""Asked of one label at a time, for its probability."""

IMAGE = "<image>"
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)


def for_films(prompt: str, films: int) -> str:
    """A prompt that starts with `<image>`, for as many films."""
    return IMAGE * (films - prompt.count(IMAGE)) + prompt


def report_answer(findings: str, impression: str) -> str:
    """DiagCoT's one-line layout, lower case (method.md 2.1): `findings : ... . impression : ... .`"""
    parts = []
    for name, text in (("findings", findings), ("impression", impression)):
        line = " ".join(text.lower().split()).rstrip(" .")
        if line:
            parts.append(f"{name} : {line} .")
    return " ".join(parts)


def classification_answer(labels: Sequence[str]) -> str:
    return "The label of this X-ray image is: " + ", ".join(labels or ["No Finding"])


def grounding_answer(label: str, boxes: Sequence[Box]) -> str:
    """Boxes as integers of 0 to 1000 (method.md 2.4)."""
    if not boxes:
        return f"No {label} regions detected."
    texts = [
        f"<box>({round(b.x1 * 1000)},{round(b.y1 * 1000)}),({round(b.x2 * 1000)},{round(b.y2 * 1000)})</box>"
        for b in boxes
    ]
    return f"The detected {label} regions are: " + ", ".join(texts)


def reasoned(think: str, answer: str) -> str:
    return f"<think>{think}</think>\n<answer>{answer}</answer>"


def last_answer_of(output: str) -> str:
    """The text of the last answer block, where an interleaved trace concludes; the whole output where there is none."""
    found = _ANSWER.findall(output)
    return str(found[-1] if found else output).strip()


def answer_of(output: str) -> str:
    """The text of the first answer block, or the whole output where there is none (method.md 6.2)."""
    found = _ANSWER.search(output)
    return (found.group(1) if found else output).strip()
